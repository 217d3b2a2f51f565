"""The registry's store in etcd.

    url        the address of a store          wire       etcd's methods and messages
    tls        the files connections need      errors     what etcd's refusals mean
    endpoints  a channel to each member        auth       the token a call carries
    client     one call, on whichever member   stream     a long conversation
    leases     signs of life                   layout     what is kept under which key
    identity   which store it is               assembler  whole revisions, of pieces
    watch      what was committed              store      the Store

The client is our own: docs/decisions/0010-own-etcd-client.md.
"""
