"""Whose AWS credentials a call is signed with: the caller's if he sent some, else the server's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel

from services.inference.remote.keys import Key
from stackmesh import calls
from stackmesh.errors import InvalidProviderData

HOW_TO_SEND = (
    "send aws_access_key_id and aws_secret_access_key (of temporary credentials aws_session_token, too) in "
    "x-stackmesh-provider-data"
)


def is_region(region: str) -> bool:
    """Whether AWS may have a region of this name. It becomes part of a host's name."""
    return re.fullmatch(r"[a-z]{2,5}(-[a-z]+)+-\d{1,2}", region) is not None


def _check_region(region: str) -> str:
    if not is_region(region):
        raise ValueError("must be the name of an AWS region, for example us-east-1")
    return region


Region = Annotated[str, AfterValidator(_check_region)]


class BedrockProviderData(BaseModel):
    """What a caller may send with a call: a whole credential, or nothing."""

    aws_access_key_id: Key | None = None
    aws_secret_access_key: Key | None = None
    aws_session_token: Key | None = None
    aws_region_name: Region | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """AWS credentials in clear, and the region to use them in."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(repr=False)
    region: str

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        return tuple(filter(None, (self.secret_access_key, self.session_token, self.access_key_id)))

    def keywords(self) -> dict[str, Any]:
        """For botocore."""
        return {
            "aws_access_key_id": self.access_key_id,
            "aws_secret_access_key": self.secret_access_key,
            "aws_session_token": self.session_token,
        }


@dataclass(frozen=True, slots=True)
class Account:
    """On whose behalf a call is made, and what its errors say."""

    credential: Credential | None
    """None: whatever credentials of the server's own boto3 finds."""
    where: str
    """Names the backend."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not be shown."""
        return self.credential.secrets if self.credential is not None else ()


def sent(region: str) -> Credential | None:
    """What the caller sent, to be used in `region` unless he says another. None: nothing.

    Raises InvalidProviderData for a part of a credential: it is not completed by the server's own.
    """
    data = calls.provider_data(BedrockProviderData)
    if data is None:
        return None
    key_id, key, token = data.aws_access_key_id, data.aws_secret_access_key, data.aws_session_token
    if key_id is None and key is None and token is None and data.aws_region_name is None:
        return None
    if key_id is None or key is None:
        missing = "aws_access_key_id" if key_id is None else "aws_secret_access_key"
        raise InvalidProviderData(f"x-stackmesh-provider-data: {missing} is missing; {HOW_TO_SEND}, or none of them")
    return Credential(
        key_id.get_secret_value(),
        key.get_secret_value(),
        token.get_secret_value() if token is not None else None,
        data.aws_region_name or region,
    )
