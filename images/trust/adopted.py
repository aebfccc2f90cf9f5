"""The containers policy that a store obeys: ``<root>/trust/policy.json``, a checked copy of a file that somebody chose.

A copy, so that a package which changes /etc/containers/policy.json changes nothing here.
"""

from __future__ import annotations

import os

from pyrun.errors import TrustError
from pyrun.images.locks import make_room, private_dirs
from pyrun.images.staging import Staging, fsync_dir, write_file
from pyrun.images.trust import policy_path, policyfile
from pyrun.images.trust.keyfiles import read_bounded
from pyrun.images.trust.policyfile import Requirement

__all__ = ["adopt", "drop", "summary"]


def summary(path: str) -> tuple[bytes, list[str]]:
    """A policy file's content, and a line for each of its rules as a person reads them; TrustError when it is no good policy."""
    data = read_bounded(path, 1 << 20, "policy", owned=True)
    policy = policyfile.parse(data, path)
    lines = [
        f"{transport}:{scope or '*'}  {_words(rules)}"
        for transport, scopes in sorted(policy.transports.items())
        for scope, rules in sorted(scopes.items())
    ]
    return data, [*lines, f"everything else  {_words(policy.default)}"]


def adopt(root: str, data: bytes) -> str:
    """Makes a policy the store's own; its path.  TrustError when that is not possible."""
    target = policy_path(root)
    policyfile.parse(data, target)
    try:
        private_dirs(os.path.dirname(target))
        with Staging(root, "policy") as staging:
            write_file(f"{staging.path}/policy", data, 0o644)
            os.rename(f"{staging.path}/policy", target)
            fsync_dir(os.path.dirname(target))
    except OSError as error:
        raise TrustError("store policy", target, errno=error.errno or 0, hint=make_room(error)) from None
    return target


def drop(root: str) -> str:
    """Removes the store's policy, so that its keys decide again; its path.  TrustError when there is none."""
    target = policy_path(root)
    try:
        os.unlink(target)
        fsync_dir(os.path.dirname(target))
    except FileNotFoundError:
        raise TrustError("remove policy", target, "there is none", hint="the trusted keys decide: pyrun trust list") from None
    except OSError as error:
        raise TrustError("remove policy", target, errno=error.errno or 0, hint=make_room(error)) from None
    return target


def _words(requirements: list[Requirement]) -> str:
    words = []
    for one in requirements:
        if one.type == policyfile.ACCEPT:
            words.append("ACCEPTED WITHOUT SIGNATURE")
        elif one.type == policyfile.REJECT:
            words.append("rejected")
        elif one.unsupported:
            words.append(f"never accepted ({one.unsupported})")
        else:
            keys = ", ".join(one.paths) or "a key in the policy"
            words.append(f"signed ({'OpenPGP' if one.type == policyfile.SIGNED_BY else 'cosign'}) by {keys}")
    return " and ".join(words)
