"""`csa export --encrypt` and `csa import --identity`: files of age, which nobody reads without a key."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from pathlib import Path
from subprocess import PIPE, Popen

import pyrage
import pytest

from csa.store.sealing import is_sealed, opened, seal
from tests.support import CSA, Place

PLANTED = "planted-text-7712"


@pytest.fixture
def key(place: Place) -> pyrage.x25519.Identity:
    """Return a key; it is in key.txt, as age-keygen writes it."""
    made = pyrage.x25519.Identity.generate()
    place.tmp.joinpath("key.txt").write_text(f"# created: now\n# public key: {made.to_public()}\n{made}\n")
    return made


def planted_in(*places: Path) -> list[Path]:
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if PLANTED.encode() in path.read_bytes()]


def test_what_is_sealed_opens_with_one_of_its_keys(place: Place, key: pyrage.x25519.Identity) -> None:
    """More than a pipe holds goes in and comes out; what the writer raises is raised, and what the disk says too."""
    content, sealed = random.Random(1).randbytes(300_000), io.BytesIO()
    assert seal([str(key.to_public())], sealed, lambda stream: stream.write(content)) == len(content)
    assert content[:64] not in sealed.getvalue()
    stream = io.BufferedReader(io.BytesIO(sealed.getvalue()))  # type: ignore[type-var, unused-ignore]  # of which mypy knows little
    assert is_sealed(stream)
    with opened([str(place.tmp / "key.txt")], stream) as plain:
        assert plain.read() == content
    with pytest.raises(ZeroDivisionError):
        seal([str(key.to_public())], io.BytesIO(), lambda _: 1 // 0)
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        seal([str(key.to_public())], full, lambda stream: stream.write(content))


@pytest.mark.thorough
def test_no_file_has_it_in_plain_meanwhile(place: Place, key: pyrage.x25519.Identity) -> None:
    """What an agent has left may be long: its size has to be known first, and until then it is nowhere in plain."""
    session_id = place.codex("hello", "--name", "kept").session_id
    content = PLANTED.encode() + random.Random(1).randbytes(6_000_000).hex().encode()
    place.session(session_id).joinpath("output", "large.txt").write_bytes(content)
    csa = Popen(
        [CSA, "export", "kept", "--encrypt", str(key.to_public())],
        stdout=PIPE,
        env=place.environment(None),
        cwd=place.project,
    )
    with csa:
        assert csa.stdout
        begin = csa.stdout.read(200_000)  # what follows does not fit into the pipe
        files = [file for file in Path(f"/proc/{csa.pid}/fd").iterdir() if int(file.name) > 2]
        held = [file.read_bytes() for file in files if "deleted" in os.readlink(file)]
        assert [len(each) > len(content) and PLANTED.encode() not in each for each in held] == [True]
        sealed = io.BytesIO(begin + csa.stdout.read())
    with opened([str(place.tmp / "key.txt")], sealed) as plain, tarfile.open(fileobj=plain, mode="r|gz") as tar:
        found = {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]  # all are files
    assert found[f"sessions/{session_id}/output/large.txt"] == content


@pytest.mark.thorough
def test_only_a_key_opens_an_export(place: Place, key: pyrage.x25519.Identity) -> None:
    """What was said is in no byte of the file; a key brings it back, another or none is a clear error."""
    session_id = place.codex(PLANTED, "--name", "kept").session_id
    said = place.run("show", "kept").out
    file, own = place.tmp / "out" / "kept.age", str(place.tmp / "key.txt")
    file.parent.mkdir()
    done = place.run("export", "kept", "--encrypt", str(key.to_public()), "-o", str(file))
    assert done.code == 0, done.err
    place.run("rm", "--purge", "kept")
    assert planted_in(file.parent, place.tmp / "home", place.state_root) == []
    other = place.tmp / "other.txt"
    other.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    for words, code, error in (
        ([], 2, "The archive is encrypted"),
        (["--identity", str(other)], 6, "None of the keys opens the archive"),
        (["--identity", str(place.tmp / "none")], 3, "There is no file"),
    ):
        done = place.run("import", str(file), *words)
        assert (done.code, error in done.err, place.run("ls", "--json").json) == (code, True, []), done
    assert place.run("import", str(file), "-i", str(other), "-i", own).out.startswith(session_id)
    assert place.run("show", "kept").out == said


@pytest.mark.thorough
def test_an_encrypted_export_is_whole_or_refused(place: Place, key: pyrage.x25519.Identity) -> None:
    """Cut off or changed anywhere it is refused, and nothing is imported; documents and stdin work as well."""
    place.codex(PLANTED, "--name", "kept")
    own = str(place.tmp / "key.txt")
    place.tmp.joinpath("people.txt").write_text(f"# of the team\n{key.to_public()}\n")
    file = place.tmp / "kept.age"
    done = place.run("export", "kept", "--encrypt", str(place.tmp / "people.txt"), "-o", str(file))
    assert done.code == 0, done.err
    place.run("rm", "--purge", "kept")
    whole = file.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 12)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole + b"x"):
            file.write_bytes(damaged)
            assert place.run("import", str(file), "-i", own).code == 6, (at, len(damaged))
            assert place.run("ls", "--json").json == []
    assert place.run("import", "-", "-i", own, stdin=whole).code == 0
    place.run("export", "kept", "--format", "md", "--encrypt", str(key.to_public()), "-o", str(file))
    assert PLANTED in pyrage.decrypt(file.read_bytes(), [key]).decode()
    for wrong in ("age1nonsense", str(file), own):
        done = place.run("export", "kept", "--encrypt", wrong, "-o", str(place.tmp / "never"))
        assert done.code == 2, done
        assert not (place.tmp / "never").exists()
        assert str(key) not in done.err


@pytest.mark.thorough
def test_what_is_no_archive_is_refused_while_more_may_come(place: Place, key: pyrage.x25519.Identity) -> None:
    """Whoever feeds it need not end before csa does."""
    running = place.start("import", "-", "-i", str(place.tmp / "key.txt"), stdin=subprocess.PIPE)
    stdin = running.process.stdin
    assert stdin
    with stdin:
        stdin.write(pyrage.encrypt(b"x" * 300_000, [key.to_public()])[:80_000])
        stdin.flush()
        done = running.wait()
    assert (done.code, "Traceback" in done.err) == (6, False), done


@pytest.mark.thorough
def test_a_key_of_ssh_will_do(place: Place) -> None:
    """A public key of SSH is one to encrypt for, and its secret key opens that."""
    secret = place.tmp / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", secret], check=True)
    place.codex(PLANTED, "--name", "kept")
    file = place.tmp / "kept.age"
    assert place.run("export", "kept", "--encrypt", f"{secret}.pub", "-o", str(file)).code == 0
    place.run("rm", "--purge", "kept")
    assert place.run("import", str(file), "-i", str(secret)).code == 0
