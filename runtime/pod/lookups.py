"""Files for name look-ups, where flags or a network have a say: rkt's rule is flag, volume, image, generated.

Of a pod with a network /etc/hosts is a file of the pod's that is kept current (pyrun.net.names); it begins with what the image has.
"""

from __future__ import annotations

from pyrun.errors import UsageError
from pyrun.host import read_small
from pyrun.net.addresses import family_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.images.rootfs import RootFS
    from pyrun.plan.config import Config
    from pyrun.pod.options import Options

__all__ = ["STUB", "fill"]

_LOCAL = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
STUB = "/run/systemd/resolve/resolv.conf"  # what systemd-resolved itself asks, where the host asks it on a loopback address


def fill(options: Options, config: Config, rootfs: RootFS) -> None:
    """Set `hosts` and `resolv` of a pod and how they get there; UsageError for a flag that has no meaning."""
    volumes = {mount.target.rstrip("/") for mount in config.mounts}
    _hosts(options, config, rootfs, volumes)
    _resolv(options, config)


def _hosts(options: Options, config: Config, rootfs: RootFS, volumes: set[str]) -> None:
    entries = [entry for text in options.hosts_entry for entry in text.split(",")]
    if "host" in entries and len(entries) > 1:
        raise UsageError("option --hosts-entry", "", "host goes with no other entry", hint="the host's file is taken as it is")
    if entries == ["host"] or (config.network == "host" and not entries):
        config.hosts = _text("/etc/hosts")
        config.hosts_keep = not entries
        return
    given = "".join(_entry(entry) for entry in entries)
    if config.network == "own" and "/etc/hosts" not in volumes:
        image = rootfs.read(b"/etc/hosts") or b""
        own = image.decode("utf-8", "surrogateescape").replace("\0", "").rstrip("\n")
        config.hosts = (own + "\n" if own.strip() else _LOCAL) + given
        config.hosts_bound = True
        return
    config.hosts = f"{_LOCAL}127.0.1.1\t{config.hostname}\n{given}"
    config.hosts_keep = not given


def _entry(text: str) -> str:
    address, equals, name = text.partition("=")
    if not equals or not family_of(address) or not name or name.strip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"):
        hint = "write ADDRESS=NAME, or host for the host's own file"
        raise UsageError("option --hosts-entry", text, "not an address and a name", hint=hint)
    return f"{address}\t{name}\n"


def _resolv(options: Options, config: Config) -> None:
    servers = [word for text in options.dns for word in text.split(",")]
    more = options.dns_search or options.dns_opt or options.dns_domain
    for word in ("host", "none"):
        if word in servers and (len(servers) > 1 or more):
            raise UsageError("option --dns", "", f"{word} goes with no other", hint="name servers by their addresses")
    if servers == ["none"]:
        return
    if servers == ["host"] or (config.network == "host" and not servers and not more):
        config.resolv = _text("/etc/resolv.conf")
        config.resolv_keep = not servers
        return
    for server in servers:
        if not family_of(server):
            raise UsageError("option --dns", server, "not an address", hint="write the address of a name server, host or none")
    for word in (*options.dns_search, *options.dns_opt, options.dns_domain or "a"):
        if not word or word.split() != [word] or not word.isprintable():
            raise UsageError("option --dns-search", word, "not one word", hint="give the option once for each")
    config.resolv_keep = not servers and not more
    lines = [f"nameserver {server}" for server in servers]
    if not servers and config.network in ("own", "host"):
        lines = _reachable(_text("/etc/resolv.conf"), config.network == "own")
        if options.dns_search or options.dns_domain:
            lines = [line for line in lines if line.split()[:1] not in (["search"], ["domain"])]
    lines += [f"domain {options.dns_domain}"] if options.dns_domain else []
    lines += [f"search {' '.join(options.dns_search)}"] if options.dns_search else []
    lines += [f"options {' '.join(options.dns_opt)}"] if options.dns_opt else []
    config.resolv = "".join(line + "\n" for line in lines)


def _reachable(text: str, own: bool) -> list[str]:
    """The host's lines without servers that listen on the host's loopback, which is not the pod's."""
    lines = [line for line in text.splitlines() if line.strip() and line[0] not in "#;"]
    left = [line for line in lines if not own or not line.split()[1:2] or not line.startswith("nameserver") or not _local(line.split()[1])]
    if own and len(left) < len(lines) and not any(line.startswith("nameserver") for line in left):
        stub = _reachable(_text(STUB), own)
        return stub or left
    return left


def _local(server: str) -> bool:
    return server.startswith("127.") or server == "::1"


def _text(path: str) -> str:
    return read_small(path).decode("utf-8", "replace").replace("\0", "")
