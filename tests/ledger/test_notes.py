"""Signed notes and checkpoints, as others write and read them."""

import stat
from pathlib import Path

import pytest

from deployledger.audit import keys, signed_notes
from deployledger.audit.checkpoints import Checkpoint, open_checkpoint
from deployledger.audit.keys import Signer, Verifier
from deployledger.audit.signed_notes import NoteError, opened, sign
from deployledger.domain.exceptions import ConfigurationError, ConflictError

EXAMPLE = (
    "This is an example message.\n\n"
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ER"
    "YNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
"""A signed note that other software publishes."""


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.parse(keys.generate("example.com/deployments")[0])


def test_a_note_of_other_software_is_read() -> None:
    text, verifier = opened(EXAMPLE, [Verifier.parse(EXAMPLE_KEY)])
    assert (text, verifier.name) == ("This is an example message.\n", "example.com/foo")
    assert str(verifier) == EXAMPLE_KEY


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("example message", "Example message", "changed since, or forged"),
        ("Uw2QOkn8", "Uw2QOkn9", "changed since, or forged"),
        ("— example", "- example", "not a signature line of a signed note"),
        ("\n\n", "\n", "not a signed note"),
        ("aQM=\n", "aQM=", "not a signed note"),
        ("Uw2QOk", "AAAAAA", "not signed by"),
        ("/foo", "/bar", "not signed by"),
    ],
)
def test_a_note_that_was_changed_is_refused(old: str, new: str, error: str) -> None:
    assert old in EXAMPLE
    with pytest.raises(NoteError, match=error):
        opened(EXAMPLE.replace(old, new), [Verifier.parse(EXAMPLE_KEY)])


def test_a_checkpoint_is_read_as_it_was_signed(signer: Signer) -> None:
    checkpoint = Checkpoint("example.com/deployments", 1234, bytes(range(32)))
    note = checkpoint.signed(signer)
    assert note.startswith(
        "example.com/deployments\n1234\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n— "
    )
    assert open_checkpoint(note, [signer.verifier]) == checkpoint
    assert open_checkpoint(note.encode(), [Verifier.parse(EXAMPLE_KEY), signer.verifier]) == checkpoint


def test_a_checkpoint_of_another_origin_is_refused(signer: Signer) -> None:
    other = Checkpoint("example.com/other", 1, bytes(32))
    with pytest.raises(NoteError, match="of another origin"):
        open_checkpoint(sign(str(other), signer), [signer.verifier])
    with pytest.raises(ConfigurationError, match="does not sign"):
        other.signed(signer)


@pytest.mark.parametrize(
    "text", ["", "a\n", "a\n1\n", "a\n01\n" + "A" * 43 + "=\n", "a\n-1\n" + "A" * 43 + "=\n", "a\n1\nAAAA\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError, match="not a checkpoint"):
        Checkpoint.parse(text)


def test_a_pair_of_keys_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "audit.key"
    verifier = keys.write_pair("example.com/deployments", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.load(path).verifier == verifier == Verifier.load(path.with_name("audit.key.pub"))
    assert "PRIVATE" not in repr(Signer.load(path))
    with pytest.raises(ConflictError, match="never overwritten"):
        keys.write_pair("example.com/deployments", path)
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"can be read or written by others \(mode 0640\)"):
        Signer.load(path)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "x" * 201])
def test_a_name_that_no_key_can_have(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be the name of a key"):
        keys.generate(name)


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "a+b+c", EXAMPLE_KEY[:-4], EXAMPLE_KEY.replace("530d903a", "530d903b"), "PRIVATE"],
)
def test_what_is_no_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Verifier.parse(text)
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError):
        Signer.load(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Verifier.load(tmp_path / "none")


def test_the_other_key_of_the_pair(tmp_path: Path) -> None:
    path = tmp_path / "audit.key"
    keys.write_pair("example.com/deployments", path)
    with pytest.raises(ConfigurationError, match="This is a public key; the private one is needed"):
        Signer.load(tmp_path / "audit.key.pub")
    with pytest.raises(ConfigurationError, match="This is a private key; the public one is needed"):
        Verifier.load(path)


def test_what_is_said_of_a_key_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as private:
        Signer.load(tmp_path / "none")
    assert "another identity" in private.value.hint
    with pytest.raises(ConfigurationError) as public:
        Verifier.load(tmp_path / "none")
    assert public.value.hint == "Ask the owner of the private key for it."


def test_a_note_has_a_largest_size(signer: Signer) -> None:
    with pytest.raises(NoteError, match="too large"):
        opened("x" * (1 << 20) + "\n\n— a b\n", [signer.verifier])
    assert signed_notes.opened(sign("x\n", signer), [signer.verifier])[0] == "x\n"
