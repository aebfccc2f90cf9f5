"""Hostile images, made byte by byte; the ids in the names are those of the attack classes that they cover."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

from archives import COMPRESS, END, aci, base256, directory, file, gnu_long, hardlink, header, manifest, node, pax, record, symlink

OUTSIDE = Path(f"/tmp/pyrun-canary-{os.getpid()}")  # known before any fixture runs, since archives name it
CANARY = os.fsencode(OUTSIDE)


LETTERS = [bytes([letter]) for letter in b"abcdefghijklmnopqrst"]


def up(levels: int) -> bytes:
    return b"../" * levels


def links(count: int) -> bytes:
    """A chain of symbolic links, each through the one before, that ends outside."""
    chain = symlink(b"rootfs/l0", b"/tmp")
    return chain + b"".join(symlink(b"rootfs/l%d" % n, b"l%d" % (n - 1)) for n in range(1, count))


def long_chain() -> bytes:
    """Directories whose links together make a path beyond PATH_MAX, at whose end realpath(3) gives up."""
    folder = b"d" * 200
    members, path = [], b"rootfs"
    for letter in LETTERS:
        members.append(pax((b"path", path + b"/" + folder)) + directory(b"x"))
        members.append(pax((b"path", path + b"/" + letter), (b"linkpath", folder)) + symlink(b"x", b"y"))
        path += b"/" + letter
    return b"".join(members) + pax((b"path", path + b"/escape"), (b"linkpath", up(30) + b"tmp")) + symlink(b"x", b"y")


def member_after(first: bytes, path: bytes = b"rootfs/l/null") -> list[bytes]:
    """Every kind of member below a name that `first` made a link."""
    return [
        aci(first, later)
        for later in (
            file(path, b"evil"), directory(path), symlink(path, b"x"), hardlink(path, b"rootfs/x"), node(path, b"6"),
            file(path + b"/y", b"evil"),
        )
    ]  # fmt: skip


OUTWARD = [
    b"rootfs/../evil", b"rootfs/a/../../evil", b"../evil", b"..", b"/etc/evil", b"//etc/evil", b"rootfs/..", b"rootfs/a/..",
    b"./../evil", b"rootfs/./../../evil", b"/rootfs/evil", b"rootfs/" + up(40) + b"tmp/evil", b"rootfs//..//evil",
    b"rootfs\\..\\evil",
    b"rootfs/" + b"x" * 256, b"rootfs/" + b"x/" * 2500, b"rootfs/" + b"x" * 5000, b"~/evil", b"C:/evil",
    b"rootfs/" + b"y/" * 300 + b"z", b"rootfs/\0", b".../evil", b"evil",
]  # fmt: skip

PATHS = {
    **{
        f"B01-{number}": aci(file(name, b"evil") if len(name) <= 100 else pax((b"path", name)) + file(b"x", b"evil"))
        for number, name in enumerate(OUTWARD)
    },
    **{
        f"B01-link-{number}": aci(symlink(name, b"x") if len(name) <= 100 else pax((b"path", name)) + symlink(b"x", b"x"))
        for number, name in enumerate(OUTWARD)
    },
}

LINKS: dict[str, bytes] = {
    **{f"B02-absolute-{n}": data for n, data in enumerate(member_after(symlink(b"rootfs/l", CANARY)))},
    **{f"B02-relative-{n}": data for n, data in enumerate(member_after(symlink(b"rootfs/l", up(12) + b"tmp")))},
    **{f"B02-dotdot-{n}": data for n, data in enumerate(member_after(symlink(b"rootfs/l", b"..")))},
    **{f"B02-self-{n}": data for n, data in enumerate(member_after(symlink(b"rootfs/l", b"l")))},
    **{f"B02-inside-{n}": data for n, data in enumerate(member_after(directory(b"rootfs/d") + symlink(b"rootfs/l", b"d")))},
    "B02-proc": aci(symlink(b"rootfs/l", b"/proc/self/cwd"), file(b"rootfs/l/x", b"evil")),
    "B02-proc-fd": aci(symlink(b"rootfs/l", b"/proc/self/fd/3"), file(b"rootfs/l/x", b"evil")),
    "B02-chain-2": aci(links(2), file(b"rootfs/l1/null", b"evil")),
    "B02-chain-64": aci(links(64), file(b"rootfs/l63/null", b"evil")),
    "B02-chain-path-max": aci(long_chain(), pax((b"path", b"rootfs/" + b"/".join(LETTERS) + b"/escape/null")) + file(b"x")),
    "B02-overwrite-link": aci(symlink(b"rootfs/l", CANARY + b"/null"), file(b"rootfs/l", b"evil")),
    "B02-chmod-link": aci(symlink(b"rootfs/l", CANARY + b"/null"), directory(b"rootfs/l", mode=0o777)),
    "B02-swap": aci(directory(b"rootfs/l"), file(b"rootfs/l/a"), symlink(b"rootfs/l", CANARY), file(b"rootfs/l/null", b"evil")),
    "B03-absolute": aci(hardlink(b"rootfs/h", CANARY + b"/null")),
    "B03-dotdot": aci(hardlink(b"rootfs/h", b"rootfs/" + up(12) + b"etc/passwd")),
    "B03-cwd": aci(hardlink(b"rootfs/h", b"null")),
    "B03-cwd-prefix": aci(hardlink(b"rootfs/h", b"rootfs/null")),
    "B03-through-link": aci(symlink(b"rootfs/l", CANARY), hardlink(b"rootfs/h", b"rootfs/l/null")),
    "B03-link-then-write": aci(symlink(b"rootfs/l", CANARY + b"/null"), hardlink(b"rootfs/h", b"rootfs/l"), file(b"rootfs/h", b"evil")),
    "B03-directory": aci(directory(b"rootfs/d"), hardlink(b"rootfs/h", b"rootfs/d")),
    "B03-root": aci(hardlink(b"rootfs/h", b"rootfs")),
    "B03-manifest": manifest() + directory(b"rootfs") + hardlink(b"rootfs/h", b"manifest") + END,
    "B03-itself": aci(hardlink(b"rootfs/h", b"rootfs/h")),
    "B03-proc": aci(hardlink(b"rootfs/h", b"/proc/self/exe")),
    "B03-data": aci(header(b"rootfs/h", b"1", link=b"rootfs/x", size=4) + b"evil".ljust(512, b"\0")),
    "B05-dot-symlink": symlink(b".", CANARY) + aci(),
    "B05-rootfs-symlink": symlink(b"rootfs", CANARY) + file(b"rootfs/null", b"evil") + manifest() + END,
    "B05-rootfs-twice": aci(symlink(b"rootfs/", CANARY)),
    "B05-rootfs-dot": aci(symlink(b"rootfs/.", CANARY)),
}  # fmt: skip

NODES: dict[str, bytes] = {
    "B07-whiteout-device": aci(node(b"rootfs/c", b"3", 0, 0)),
    "B11-device-numbers": aci(node(b"rootfs/c", b"4", 1 << 13, 1)),
    "B11-device-base256": aci(header(b"rootfs/c", b"3", patch=(329, base256(-1, 8)))),
    "B11-fifo-manifest": directory(b"rootfs") + node(b"manifest", b"6") + END,
    "B11-device-manifest": directory(b"rootfs") + node(b"manifest", b"3", 1, 5) + END,
    "B11-fifo-rootfs": node(b"rootfs", b"6") + manifest() + END,
    "B11-write-to-fifo": aci(node(b"rootfs/p", b"6"), file(b"rootfs/p", b"evil")),
    "B11-below-fifo": aci(node(b"rootfs/p", b"6"), file(b"rootfs/p/x", b"evil")),
    "B20-uid": aci(file(b"rootfs/a", uid=base256(-1, 8))),
    "B20-gid": aci(pax((b"gid", b"4294967295")) + file(b"rootfs/a")),
    "B20-uid-huge": aci(pax((b"uid", b"9" * 20)) + file(b"rootfs/a")),
}

DUPLICATES: dict[str, bytes] = {
    "B16-file": aci(file(b"rootfs/a", b"1"), file(b"rootfs/a", b"2")),
    "B16-dot": aci(file(b"rootfs/a", b"1"), file(b"rootfs/./a", b"2")),
    "B16-directory": aci(directory(b"rootfs/a"), directory(b"rootfs//a/")),
    "B16-flip": aci(file(b"rootfs/a"), directory(b"rootfs/a"), symlink(b"rootfs/a", b"/etc")),
    "B16-child-first": aci(file(b"rootfs/a/b"), file(b"rootfs/a")),
    "B24-manifest-twice": manifest() + aci(),
    "B24-rootfs-twice": directory(b"rootfs") + aci(),
    "B24-outside": aci(file(b"elsewhere", b"x")),
    "B24-rootfs-suffix": aci(file(b"rootfs.evil/a", b"x")),
    "B24-nul-in-name": aci(pax((b"path", b"rootfs/a\0/../../evil")) + file(b"rootfs/a")),
    "B24-no-rootfs": manifest() + END,
    "B24-no-manifest": directory(b"rootfs") + END,
}

NUMBERS: dict[str, bytes] = {
    f"B13-{name}": aci(data)
    for name, data in {
        "negative-size": header(b"rootfs/a", size=base256(-512, 12)),
        "size-8-eib": header(b"rootfs/a", size=base256(1 << 62, 12)),
        "size-2-to-90": header(b"rootfs/a", size=b"\x80" + b"\xff" * 11),
        "size-quota": header(b"rootfs/a", size=base256(1 << 40, 12)),
        "size-letters": header(b"rootfs/a", size=b"12abc\0"),
        "size-sign": header(b"rootfs/a", size=b"+12\0"),
        "size-space-inside": header(b"rootfs/a", size=b"1 2\0"),
        "pax-size-larger": pax((b"size", b"99999999")) + file(b"rootfs/a", b"x"),
        "pax-size-smaller": pax((b"size", b"1")) + file(b"rootfs/a", header(b"rootfs/../evil") * 2),
        "pax-size-negative": pax((b"size", b"-1")) + file(b"rootfs/a"),
        "pax-size-link": pax((b"size", b"512")) + symlink(b"rootfs/a", b"b") + file(b"rootfs/../../evil"),
        "pax-global-size": pax((b"size", b"0"), type=b"g") + file(b"rootfs/a", b"x"),
        "pax-global-path": pax((b"path", b"/evil"), type=b"g") + file(b"rootfs/a", b"x"),
        "pax-global-xattr": pax((b"SCHILY.xattr.trusted.overlay.opaque", b"y"), type=b"g") + file(b"rootfs/a", b"x"),
        "pax-length-overlap": pax(raw=b"30 comment=x\n") + file(b"rootfs/a"),
        "pax-length-short": pax(raw=b"3 path=/evil\n") + file(b"rootfs/a"),
        "pax-in-pax": pax(raw=record(b"comment", b"x\n" + record(b"path", b"/evil"))) + pax((b"path", b"/evil")) + file(b"a"),
        "pax-path-dotdot": pax((b"path", b"rootfs/../../evil")) + file(b"rootfs/a", b"x"),
        "pax-linkpath": pax((b"linkpath", CANARY + b"/null")) + hardlink(b"rootfs/a", b"rootfs/b"),
        "pax-many-digits": pax(raw=b"9" * 400 + b" a=b\n") + file(b"rootfs/a"),
        "longname-dotdot": gnu_long(b"rootfs/" + up(5) + b"evil") + file(b"rootfs/a", b"x"),
        "longname-nul": gnu_long(b"\0rootfs/a") + file(b"rootfs/a", b"x"),
        "longlink": gnu_long(CANARY + b"/null", b"K") + hardlink(b"rootfs/a", b"rootfs/b"),
        "sparse-old": header(b"rootfs/a", b"S", magic=b"ustar  \0", size=512, patch=(386, b"77777777777\0" * 8)) + bytes(512),
        "sparse-1.0": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9" * 18)) + file(b"rootfs/a", b"1\n"),
        "sparse-0.1": pax((b"GNU.sparse.map", b"0,1," * 1000)) + file(b"rootfs/a"),
        "checksum": header(b"rootfs/a", checksum=b"000001\0 "),
        "type": header(b"rootfs/a", b"!"),
        "volume-label": header(b"rootfs/a", b"V", magic=b"ustar  \0"),
        "long-pax": header(b"rootfs/a", b"x", size=2 << 30),
        "long-name": header(b"rootfs/a", b"L", size=2 << 30),
        "long-link": header(b"rootfs/a", b"K", size=1 << 20),
        "pax-chain": pax((b"path", b"a")) * 50 + file(b"rootfs/a"),
        "pax-globals": pax((b"comment", b"x" * 400), type=b"g") * 50 + file(b"../evil"),
    }.items()
}  # fmt: skip

WHOLE = aci(file(b"rootfs/a", os.urandom(3000)), directory(b"rootfs/d"), file(b"rootfs/d/b", b"y" * 2000))
GZIP = gzip.compress(WHOLE, mtime=0)


def gzip_with_wrong_length() -> bytes:
    return GZIP[:-4] + struct.pack("<I", len(WHOLE) + 1)


def gzip_with_wrong_sum() -> bytes:
    return GZIP[:-8] + struct.pack("<II", zlib.crc32(WHOLE) ^ 1, len(WHOLE))


STREAMS: dict[str, bytes] = {
    **{f"B18-cut-{at}": WHOLE[:at] for at in (0, 1, 300, 511, 512, 513, 1024, 2000, 3584)},
    **{f"B18-cut-end-{at}": WHOLE[:-at] for at in (1025, 1024, 1023, 512, 1)},
    **{f"B18-cut-gzip-{at}": GZIP[:at] for at in (1, 3, 9, 10, 100, len(GZIP) // 2, len(GZIP) - 8, len(GZIP) - 1)},
    **{f"B18-tail-{name}": data + b"tail" for name, data in ((n, c(WHOLE)) for n, c in COMPRESS.items())},
    "B18-second-archive": WHOLE + WHOLE,
    "B18-second-member-garbage": GZIP + gzip.compress(b"garbage"),
    "B18-second-member-archive": GZIP + GZIP,
    "B18-zeros-after-gzip": GZIP + bytes(100),
    "B18-wrong-length": gzip_with_wrong_length(),
    "B18-wrong-sum": gzip_with_wrong_sum(),
    "B18-lone-zero-block": aci(end=bytes(512)),
    "B18-zero-block-inside": directory(b"rootfs") + bytes(512) + manifest() + END,
    "B18-zstd": COMPRESS["zstd"](WHOLE),
    "B18-nested-gzip": gzip.compress(GZIP),
    "C05-duplicate-key": directory(b"rootfs") + file(b"manifest", b'{"acKind":"ImageManifest","acKind":"ImageManifest"}') + END,
    "C06-deep-manifest": directory(b"rootfs") + file(b"manifest", b"[" * 100_000) + END,
    "C06-large-manifest": directory(b"rootfs") + file(b"manifest", b" " * (5 << 20)) + END,
    "C06-many-nodes": directory(b"rootfs") + file(b"manifest", b"[" + b"{}," * 500_000 + b"{}]") + END,
    "C05-escape-in-name": directory(b"rootfs") + manifest(name="\x1b]0;evil\x07\u202e") + END,
}  # fmt: skip

CORPUS = {**PATHS, **LINKS, **NODES, **DUPLICATES, **NUMBERS, **STREAMS}
