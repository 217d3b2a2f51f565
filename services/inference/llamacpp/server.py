"""llama.cpp's server inside this process, with every setting that is ours to decide."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import xllamacpp

from stackmesh.config import ConfigError

Message = dict[str, Any]
"""One of llama.cpp's answers, as the JSON of its HTTP API: a chunk, or `{"error": {...}}`."""
Callback = Callable[[Message], bool]
"""Is told every answer, in the thread that made the call. True makes llama.cpp stop."""

_xllamacpp: Any = xllamacpp  # a compiled module without types


class LlamaServer(Protocol):
    """What we use of xllamacpp.Server. Each call blocks, without the GIL, until it is answered or was stopped.

    A request that makes no sense is an `error` message, or for some reasons an exception. Texts come in whole Unicode
    characters, and text that may begin a stop sequence is held back until it is known not to.
    """

    def handle_completions(self, body: Message, callback: Callback) -> None: ...

    def handle_chat_completions(self, body: Message, callback: Callback) -> None: ...

    def handle_embeddings(self, body: Message) -> Message: ...

    def handle_metrics(self) -> str:
        """Prometheus text; `llamacpp:requests_processing` is how many requests are being worked on."""
        ...


def open_server(
    path: Path,
    *,
    slots: int,
    context_tokens: int,
    n_batch: int,
    threads: int,
    embedding: bool = False,
    chat_template: str = "",
) -> LlamaServer:
    """Load a model. Blocks, and xllamacpp keeps the GIL meanwhile. Raises ConfigError. Dropping the server frees it.

    `chat_template`: Jinja; empty is the model's own.
    """
    params = _xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = slots
    params.n_ctx = context_tokens * slots  # llama.cpp divides it among the slots
    params.n_batch = params.n_ubatch = n_batch
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0  # idle threads that spin take the core from the rest of the mesh
    params.cache_ram_mib = 0  # by default up to 8 GiB of old prompts are kept
    params.reasoning_format = _xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.use_jinja = True  # tools need it
    params.chat_template = chat_template
    params.embedding = embedding
    if embedding:
        params.pooling_type = _xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.verbosity = -1
    params.endpoint_metrics = True
    params.endpoint_slots = params.ui = False
    # It insists on a listener (.sock: a Unix socket). One whose name is gone at once can be called by nobody.
    with tempfile.TemporaryDirectory(prefix="stackmesh-") as folder:
        params.hostnames = [f"{folder}/llama.sock"]
        try:
            return cast("LlamaServer", _xllamacpp.Server(params))
        except RuntimeError:
            raise ConfigError(f"{path}: llama.cpp cannot load it; it has to be a whole GGUF model") from None
