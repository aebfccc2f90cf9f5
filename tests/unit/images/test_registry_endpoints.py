"""Mirrors and plain http: who is asked in which order, what is taken from whom, and whom secrets reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from net import Answer, Net, basic, guarded
from registries import Authority, ImageParts, Reply, Request, Scripted, digest_of

from pyrun.errors import DigestError, ImageError
from pyrun.images.store import Store

PARTS = ImageParts({"hello": b"world" * 1000})
OTHER = ImageParts({"hello": b"something else"})
ID = digest_of(PARTS.manifest).replace(":", "-")


def nothing(_: Request) -> Reply:
    return Reply(b"", 404)


def broken(_: Request) -> Reply:
    return Reply(b"", 500)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def net(authority: Authority, store: Store, tmp_path: Path) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(authority, store, tmp_path, stack)


def mirrored(main: Scripted, *mirrors: Scripted, more: str = "") -> str:
    text = f'[[registry]]\nlocation = "{main.place}"\n'
    return text + "".join(f'[[registry.mirror]]\nlocation = "{mirror.place}"\n{more}\n' for mirror in mirrors)


def test_mirror_is_asked_first_and_the_name_stays(net: Net) -> None:
    main, mirror = net.serve(nothing), net.serve(PARTS.answer)
    net.known(main, mirror)
    image = net.pull(f"{main.place}/app:1", mirrored(main, mirror))
    assert (image.id, image.name, main.seen) == (ID, f"{main.place}/app", [])


@pytest.mark.parametrize("answer", [nothing, broken, lambda _: Reply(b"", 403)])
def test_next_place_where_one_fails(net: Net, answer: Answer) -> None:
    main, one, two = net.serve(PARTS.answer), net.serve(answer), net.serve(nothing)
    net.known(main, one, two)
    assert net.pull(f"{main.place}/app:1", mirrored(main, one, two)).id == ID
    assert one.seen and two.seen
    net.authority.certs_dirs(main.place)
    (net.authority.folder / "certs.d" / one.place / "ca.crt").unlink()
    assert net.pull(f"{main.place}/app@{ID.replace('-', ':')}", mirrored(main, one)).id == ID


def test_error_names_all(net: Net) -> None:
    main, mirror = net.serve(nothing), net.serve(broken)
    net.known(main, mirror)
    with pytest.raises(ImageError, match="404 not found") as caught:
        net.pull(f"{main.place}/app:1", mirrored(main, mirror))
    assert main.place in str(caught.value) and f"{mirror.place}/app:1: 500" in caught.value.origin


def test_mirror_that_lacks_a_layer_is_helped_out(net: Net) -> None:
    layer = digest_of(PARTS.layer)
    main, mirror = net.serve(PARTS.answer), net.serve(lambda request: nothing(request) if layer in request.path else PARTS.answer(request))
    net.known(main, mirror)
    assert net.pull(f"{main.place}/app:1", mirrored(main, mirror)).id == ID
    assert [request.path.rpartition("/")[2] for request in main.seen] == [layer]


def test_mirror_that_lies_ends_it(net: Net, leftovers: Callable[[], list[str]]) -> None:
    def lying(request: Request) -> Reply:
        return Reply(OTHER.layer[: len(PARTS.layer)].ljust(len(PARTS.layer), b"x")) if "blobs" in request.path else PARTS.answer(request)

    main, mirror = net.serve(PARTS.answer), net.serve(lying)
    net.known(main, mirror)
    with pytest.raises((DigestError, ImageError)):
        net.pull(f"{main.place}/app:1", mirrored(main, mirror))
    assert leftovers() == [] and main.seen == []


def test_secrets_are_of_one_place(net: Net) -> None:
    main, mirror = net.serve(guarded("main", PARTS.answer)), net.serve(guarded("mirror", PARTS.answer))
    net.known(main, mirror)
    assert net.pull(f"{main.place}/app:1", mirrored(main, mirror), logins={main.place: "main", mirror.place: "mirror"}).id == ID
    assert {request.authorization for request in mirror.seen} == {"", basic("mirror")} and main.seen == []
    stranger = net.serve(guarded("mirror", PARTS.answer))
    net.known(stranger)
    assert net.pull(f"{main.place}/app@{ID.replace('-', ':')}", mirrored(main, stranger), logins={main.place: "main"}).id == ID
    assert {request.authorization for request in stranger.seen} <= {""}


def test_blocked_is_not_asked(net: Net) -> None:
    main = net.serve(PARTS.answer)
    with pytest.raises(ImageError, match="blocked"):
        net.pull(f"{main.place}/app:1", f'[[registry]]\nlocation = "{main.place}"\nblocked = true\n')
    assert main.connections == 0


def test_insecure_allows_http_where_https_is_not_spoken(net: Net) -> None:
    main = net.serve(guarded("main", PARTS.answer), tls=False)
    with pytest.raises(ImageError, match="does not speak TLS"):
        net.pull(f"{main.place}/app:1")
    text = f'[[registry]]\nlocation = "{main.place}"\ninsecure = true\n'
    with pytest.raises(ImageError, match="wants a login"):
        net.pull(f"{main.place}/app:1", text, logins={main.place: "main"})
    assert {request.authorization for request in main.seen} == {""}
    open_to_all = net.serve(PARTS.answer, tls=False)
    assert net.pull(f"{open_to_all.place}/app:1", text.replace(main.place, open_to_all.place)).id == ID


def test_insecure_does_not_accept_certificates(net: Net) -> None:
    main = net.serve(PARTS.answer)
    (net.authority.folder / "certs.d" / main.place / "ca.crt").unlink(missing_ok=True)
    with pytest.raises(ImageError, match="certificate is not accepted"):
        net.pull(f"{main.place}/app:1", f'[[registry]]\nlocation = "{main.place}"\ninsecure = true\n')
    assert main.seen == []


def test_http_is_of_one_registry(net: Net) -> None:
    main, mirror = net.serve(PARTS.answer, tls=False), net.serve(PARTS.answer, tls=False)
    with pytest.raises(ImageError, match="does not speak TLS"):
        net.pull(f"{main.place}/app:1", http=(mirror.place,))
    assert net.pull(f"{main.place}/app:1", mirrored(main, mirror), http=("",)).id == ID
    assert mirror.seen == [] and main.seen
    other = net.serve(OTHER.answer, tls=False)
    assert net.pull("example.invalid/app:1", '[[registry]]\nlocation="example.invalid"\n'
                    f'[[registry.mirror]]\nlocation="{other.place}"\n', http=(other.place,)).name == "example.invalid/app"  # fmt: skip


def test_tag_that_has_not_moved_costs_one_head(net: Net) -> None:
    current = [PARTS]
    main = net.serve(lambda request: current[0].answer(request))  # noqa: PLW0108  # looked up anew each time
    net.known(main)
    first = net.pull(f"{main.place}/app:1")
    main.seen.clear()
    assert net.pull(f"{main.place}/app:1").id == first.id
    assert [(request.method, request.path) for request in main.seen] == [("HEAD", "/v2/app/manifests/1")]
    current[0] = OTHER
    second = net.pull(f"{main.place}/app:1")
    assert second.id == digest_of(OTHER.manifest).replace(":", "-") and net.store.find(f"{main.place}/app:1").id == second.id
    current[0] = PARTS
    main.seen.clear()
    assert net.pull(f"{main.place}/app:1").id == first.id
    assert net.store.find(f"{main.place}/app:1").id == first.id
    assert not any("blobs" in request.path for request in main.seen)
    main.answer = broken
    with pytest.raises(ImageError, match="500"):
        net.pull(f"{main.place}/app:1")
