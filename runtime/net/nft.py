"""libnftables, called in this process: a fifth of what starting `nft` costs, and a transaction either holds or nothing of it does."""

from __future__ import annotations

from pyrun.errors import HostError

__all__ = ["elements", "run"]

_LIBRARIES = ("libnftables.so.1", "libnftables.so")
_JSON_OUTPUT = 16
_loaded: list[object] = []


def _library() -> object:
    if not _loaded:
        import ctypes

        for name in _LIBRARIES:
            try:
                lib = ctypes.CDLL(name)
            except OSError:
                continue
            for function in ("nft_ctx_new", "nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
                getattr(lib, function).restype = ctypes.c_void_p if function == "nft_ctx_new" else ctypes.c_char_p
            _loaded.append(lib)
            break
        else:
            hint = "install nftables (Debian's packages nftables and libnftables1), or use --net none or host"
            raise HostError("set up rules of the network", "", "libnftables.so.1 is not installed", hint=hint)
    return _loaded[0]


def _call(commands: str, json: bool) -> tuple[int, str, str]:
    import ctypes

    lib: object = _library()
    context = ctypes.c_void_p(lib.nft_ctx_new(0))  # type: ignore[attr-defined]
    try:
        lib.nft_ctx_buffer_output(context)  # type: ignore[attr-defined]
        lib.nft_ctx_buffer_error(context)  # type: ignore[attr-defined]
        if json:
            lib.nft_ctx_output_set_flags(context, ctypes.c_uint(_JSON_OUTPUT))  # type: ignore[attr-defined]
        code = lib.nft_run_cmd_from_buffer(context, commands.encode())  # type: ignore[attr-defined]
        out = lib.nft_ctx_get_output_buffer(context) or b""  # type: ignore[attr-defined]
        err = lib.nft_ctx_get_error_buffer(context) or b""  # type: ignore[attr-defined]
        return code, out.decode(errors="replace"), err.decode(errors="replace")
    finally:
        lib.nft_ctx_free(context)  # type: ignore[attr-defined]


def run(commands: str) -> None:
    """Carry out commands of nft(8) as one transaction; HostError, and nothing of it, when the kernel refuses."""
    code, _, err = _call(commands, False)
    if code:
        lines = [line for line in err.splitlines() if "rror:" in line] or [err.strip() or "refused"]
        hint = "does this kernel have nf_tables with NAT (CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_MASQ)?"
        raise HostError("set up rules of the network", "", lines[0].rpartition("rror: ")[2], hint=hint)


def elements(table: str) -> list[tuple[str, str]]:
    """Return (set or map, element) for all that our table holds, an element as nft(8) writes it; nothing when there is no table."""
    from pyrun.images import fastjson

    code, out, _ = _call(f"list table inet {table}", True)
    listed = fastjson.loads(out.encode()) if code == 0 and out else {}
    found = []
    for one in listed.get("nftables", []) if isinstance(listed, dict) else []:
        held = one.get("set") or one.get("map") or {}
        found += [(held["name"], _text(element)) for element in held.get("elem", [])]
    return found


def _text(element: object) -> str:
    if isinstance(element, list):  # of a map
        return " : ".join(map(_text, element))
    if isinstance(element, dict) and "concat" in element:
        return " . ".join(map(_text, element["concat"]))
    return str(element)
