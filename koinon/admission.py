"""An admission on disk (`admission.json` in a party's home): the credential that the registrar signed.

Hexadecimal strings with 0x. The same credential goes to the chain (`Ledger.register`) and to the law (`Enrol`).
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from koinon.config import Setting, convert, write_atomically
from koinon.encoding import decode, encode, from_hex, to_hex
from koinon.errors import ConfigError, Malformed
from koinon.rounds.operations import Enrol
from koinon.wire import Admission

ADMISSION_FILE = "admission.json"


class AdmissionFile(Setting, frozen=True):
    member: str
    roles: int
    examples_max: int
    sealing_key: str
    serial: int
    signature: str


def save_admission(path: Path, enrol: Enrol) -> None:
    """Write what `load_admission` reads."""
    admission = enrol.admission
    file = AdmissionFile(
        member=to_hex(admission.member),
        roles=admission.roles,
        examples_max=admission.examples_max,
        sealing_key=to_hex(admission.sealing_key),
        serial=admission.serial,
        signature=to_hex(enrol.signature),
    )
    write_atomically(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")


def load_admission(path: Path) -> Enrol:
    """The admission and its signature as the operation that hands it in; ConfigError when missing or wrong.

    Whether the signature is the registrar's is for the law and the contract to say.
    """
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"no admission at {path}",
            hint="send address and sealing key (koinon init prints them) to the registrar, who makes it with "
            "koinon-provision admit ADDRESS --sealing-key KEY --out admission.json; put it there",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="put the registrar's file there again") from None
    file = convert(AdmissionFile, raw, str(path))
    try:
        enrol = Enrol(
            admission=Admission(
                member=from_hex(file.member),
                roles=file.roles,
                examples_max=file.examples_max,
                sealing_key=from_hex(file.sealing_key),
                serial=file.serial,
            ),
            signature=from_hex(file.signature),
        )
        return decode(Enrol, encode(enrol))
    except Malformed as error:
        raise ConfigError(f"{path}: {error.message}", hint="put the registrar's file there again") from None
