"""Whose files of the system's count for root of a user namespace, to whom the kernel shows one owner for all who have no id there."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from pyrun.native.users import root_or_self
import os, sys
for path in sys.argv[1:]:
    uid = os.stat(path).st_uid
    print(os.path.basename(os.path.dirname(path)), uid, root_or_self(uid, path))
"""


def test_files_of_the_system_count_where_only_its_owner_can_write() -> None:
    script = """
        mount -t tmpfs -o mode=0755 tmpfs /etc/opt
        mkdir -m 0755 /etc/opt/closed; mkdir -m 0777 /etc/opt/everybody; mkdir -m 0775 /etc/opt/group
        cd /etc/opt; for name in closed everybody group; do echo >$name/file; chmod 644 $name/file; done
        mkdir -m 0755 /etc/opt/everybody/below; echo >everybody/below/file
        code=$1; shift
        exec setpriv --reuid 1000 --regid 1000 --clear-groups unshare --user --map-root-user "$@" -c "$code" \
            /etc/opt/closed/file /etc/opt/everybody/file /etc/opt/group/file /etc/opt/everybody/below/file
    """
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", CODE, sys.executable]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[:4] == ["closed 65534 True", "everybody 65534 False", "group 65534 False", "below 65534 False"], done
