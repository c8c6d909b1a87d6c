"""No listening to strangers by accident, and no TLS that fails only once it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelkeep.errors import BadSettings
from modelkeep.serve.http import listener
from modelkeep.serve.protocol import address
from modelkeep.serve.protocol.keys import Ring
from modelkeep.settings import Settings


def test_beyond_this_machine_only_with_keys_or_on_purpose(tmp_path: Path) -> None:
    open_to_all = Settings(home=tmp_path, host="0.0.0.0", port=0)
    with pytest.raises(BadSettings, match="modelkeep keys --add NAME --scope infer, or pass --anonymous"):
        address.safely(open_to_all)
    address.safely(Settings(home=tmp_path, host="0.0.0.0", port=0, anonymous=True)).close()
    Ring(open_to_all.keys_file).add("web", ["infer"])
    address.safely(open_to_all).close()
    address.safely(Settings(home=tmp_path / "other", host="localhost", port=0)).close()
    with pytest.raises(BadSettings, match="no API key"):
        address.safely(Settings(home=tmp_path / "other", host="::", port=0))


def test_tls_files_that_do_not_work_are_told_before_anything_listens(pem: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no")
    for cert, key in ((pem[0], pem[0]), (str(tmp_path / "no.pem"), pem[1]), (str(tmp_path / "gone"), pem[1])):
        with pytest.raises(BadSettings, match="--tls-cert and --tls-key"):
            address.safely(Settings(port=0, tls_cert=cert, tls_key=key))


def test_a_tls_file_that_is_not_there_is_named_and_so_is_a_certificate_that_lacks(
    pem: tuple[str, str], tmp_path: Path
) -> None:
    for cert, key, said in (
        (str(tmp_path / "gone.pem"), "", r"there is no file \S+/gone\.pem; give PEM files"),
        (pem[0], str(tmp_path / "gone.key"), r"there is no file \S+/gone\.key; give PEM files"),
        ("", pem[1], r"the key '\S+' needs its certificate; give both"),
        (pem[0], "", rf"TLS cannot use certificate '{pem[0]}' with the key in '{pem[0]}'"),
    ):
        with pytest.raises(BadSettings, match=said):
            address.safely(Settings(port=0, tls_cert=cert, tls_key=key))


def test_an_encrypted_key_is_told_before_anything_listens(pem: tuple[str, str], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(pem[1]).read_bytes(), None)
    form, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = tmp_path / "locked.pem"
    locked.write_bytes(key.private_bytes(form, kind, serialization.BestAvailableEncryption(b"x")))
    with pytest.raises(BadSettings, match=r"is encrypted.*openssl pkey -in"):
        address.safely(Settings(port=0, tls_cert=pem[0], tls_key=str(locked)))


def test_a_file_of_keys_that_is_not_there_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=0, keys=str(tmp_path / "my keys.json"))
    with pytest.raises(
        BadSettings, match=r"MODELKEEP_KEYS='\S+/my keys\.json' modelkeep keys --add NAME --scope infer"
    ):
        address.safely(settings)
    Ring(settings.keys_file).add("web", ["infer"])
    address.safely(settings).close()


def test_http_and_grpc_share_the_files_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "connections", lambda wanted: min(wanted, 12))
    assert listener.within(Settings(max_connections=10)).max_connections == 10
    assert listener.within(Settings(max_connections=10, grpc_port=1)).max_connections == 6
