"""What Bedrock's names say: which model, of which family, in which geography.

    meta.llama3-1-8b-instruct-v1:0              a model
    us.meta.llama3-1-8b-instruct-v1:0           an inference profile: that model, in any region of a geography
    arn:aws:bedrock:...:inference-profile/us.meta.llama3-1-8b-instruct-v1:0
    arn:aws:bedrock:...:application-inference-profile/a1b2c3d4e5f6, .../provisioned-model/a1b2c3d4e5f6

The geographies are those of https://docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html (read
in 2026).
"""

from __future__ import annotations

import re
from typing import Final

GEOGRAPHIES: Final = {
    "us": r"us-(?!gov|iso)",
    "us-gov": r"us-gov-",
    "eu": r"eu-",
    "apac": r"ap-",
    "jp": r"ap-northeast-[13]$",
    "au": r"ap-southeast-[246]$",
    "ca": r"ca-",
    "global": r"",
}
"""The regions that lie in each, by the beginning of an inference profile's name."""
_NOWHERE: Final = "global"
"""It is never taken unless it is asked for: a prompt sent there may be read on any continent."""

_ARN: Final = re.compile(r"arn:aws[a-z-]*:(?:bedrock|sagemaker):[a-z0-9-]*:\d*:([a-z-]+)/([A-Za-z0-9.:/-]+)")
_ID: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::[a-z0-9-]+){0,2}")


def is_arn(name: str) -> bool:
    """Whether it is the ARN of something that can be called."""
    return _ARN.fullmatch(name) is not None


def is_id(name: str) -> bool:
    """Whether a model or an inference profile may be called so."""
    return _ID.fullmatch(name) is not None


def parted(name: str) -> tuple[str, str]:
    """The geography, empty if it says none, and the model's own id, empty if it does not say that."""
    if (arn := _ARN.fullmatch(name)) is not None:
        if arn[1] not in ("foundation-model", "inference-profile"):
            return "", ""
        name = arn[2]
    first, _, rest = name.partition(".")
    return (first, rest) if first in GEOGRAPHIES and "." in rest else ("", name)


def is_near(geography: str, region: str) -> bool:
    """Whether what is sent from this region to that geography stays near."""
    return geography != _NOWHERE and re.match(GEOGRAPHIES[geography], region) is not None
