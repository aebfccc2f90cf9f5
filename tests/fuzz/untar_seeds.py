"""Writes archives with something of everything as the fuzzer's seeds: untar_seeds.py DIRECTORY."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "support"))

from archives import END, base256, directory, file, gnu_long, hardlink, header, node, pax, symlink

TREE = directory(b"d", mode=0o2755) + file(b"d/f", b"hello" * 200) + symlink(b"l", b"d/f") + hardlink(b"h", b"d/f") + node(b"p", b"6")
SEEDS = {
    "tree": TREE,
    "implied": file(b"a/b/c", b"x") + directory(b"a") + file(b"a/b", b"y"),
    "layer": file(b"/d/.wh.x") + file(b"d/.wh..wh..opq") + TREE,
    "rootfs": directory(b"rootfs") + file(b"manifest", b"{}") + file(b"rootfs/a", b"x") + hardlink(b"rootfs/b", b"rootfs/a"),
    "pax": pax((b"path", b"n" * 150), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.x", b"1"), (b"size", b"3")) + file(b"x", b"abc"),
    "long": gnu_long(b"g" * 150) + gnu_long(b"t" * 150, b"K") + symlink(b"x", b"y"),
    "numbers": file(b"a", uid=base256(7, 8), mtime=base256(-5, 12)) + node(b"c", b"3", 1, 3) + pax((b"comment", b"x"), type=b"g"),
    "sparse-old": header(
        b"s", b"S", magic=b"ustar  \0", size=512, patch=(386, b"00000000000\000000001000\0" + bytes(73) + b"00000002000\0")
    )
    + bytes(512),
    "sparse-0.1": pax((b"GNU.sparse.size", b"99"), (b"GNU.sparse.map", b"0,1,9,2")) + file(b"s", b"abc"),
    "sparse-0.0": pax((b"GNU.sparse.size", b"99"), (b"GNU.sparse.offset", b"1"), (b"GNU.sparse.numbytes", b"3")) + file(b"s", b"abc"),
    "sparse-1.0": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"99"))
    + file(b"s", b"1\n0\n3\n".ljust(512, b"\0") + b"abc"),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in SEEDS.items():
        for choice in (0, 0b0000001, 0b0100010, 0b0001010, 0b0010000, 0b1100000):
            (folder / f"{name}-{choice}").write_bytes(bytes((choice,)) + members + END)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
