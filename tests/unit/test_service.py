"""Words of unit files, files that describe pods, and the units made of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from harness import COMMAND
from hypothesis import given
from hypothesis import strategies as st

from pyrun.cli.main import main
from pyrun.errors import ConfigError, UsageError
from pyrun.service import host, podfile, unit, words

OPTIONS = {
    "volume": ("--volume", False),
    "set-env": ("--set-env", False),
    "readonly-rootfs": ("--readonly-rootfs", True),
    "working-dir": ("--working-dir", False),
}


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_what_is_joined_splits_again(given_words: list[str]) -> None:
    """systemd undoes the doubling after splitting, when it expands."""
    assert [word.replace("$$", "$").replace("%%", "%") for word in words.split(words.join(given_words))] == given_words


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_a_word_stays_on_its_line(word: str) -> None:
    assert not set(words.quote(word)) & {"\n", "\r", "\t"}
    assert words.quote(word)[0] != ";"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" a  b\tc ", ["a", "b", "c"]),
        ('a"b c"d \'e f\' ""', ["ab cd", "e f", ""]),
        (r'"\x41\n\"" \s\u00e4', ['A\n"', " ä"]),
    ],
)
def test_split(text: str, found: list[str]) -> None:
    assert words.split(text) == found


@pytest.mark.parametrize("text", ['"a', "a'", "a\\", r"\q", r"\x4", r"\x00", r"\Uffffffff"])
def test_split_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        words.split(text)


def test_a_whole_file() -> None:
    text = r"""
# comment
[Unit]
Description=web
[Pod]
Image=example.com/web:1.0
Exec=/bin/httpd -f \
    -p 8080
Args="two words"
Volume=/srv/www:/www:ro
Environment=A=1 "B=x y"
ReadOnly=yes
ReadOnlyRootfs=no
working-dir=/www
[Socket]
ListenStream=8080
"""
    made = podfile.parse(text, "web.pod", OPTIONS)
    assert made.words == [
        "--volume=/srv/www:/www:ro",
        "--set-env=A=1",
        "--set-env=B=x y",
        "--readonly-rootfs",
        "--working-dir=/www",
        "--exec=/bin/httpd",
        "example.com/web:1.0",
        "--",
        "-f",
        "-p",
        "8080",
        "two words",
    ]
    assert made.sections == {"Unit": ["Description=web"], "Socket": ["ListenStream=8080"]}


def test_each_section_is_an_app() -> None:
    """And a pod manifest has its apps in itself."""
    text = "[Pod]\nImage=a\nExec=/x 1\n[Service]\nNice=1\n[Pod]\nReadOnly=yes\nImage=b\nArgs=2\n[Service]\nNice=2\n"
    made = podfile.parse(text, "web.pod", OPTIONS)
    assert made.words == ["--exec=/x", "a", "--", "1", "---", "--readonly-rootfs", "b", "--", "2"]
    assert (made.image, made.sections) == ("a, b", {"Service": ["Nice=1", "Nice=2"]})
    made = podfile.parse("[Pod]\nPodManifest=/etc/pod.json\n", "web.pod", {"pod-manifest": ("--pod-manifest", False)})
    assert (made.words, made.image) == (["--pod-manifest=/etc/pod.json", "--"], "/etc/pod.json")


def test_each_socket_with_a_name_is_a_unit() -> None:
    """The first is the file's own; what has its name, or none, belongs to it, and so it is for each further name."""
    text = """[Pod]
Image=a
[Socket]
ListenStream=1
[Socket]
FileDescriptorName=admin
ListenStream=2
[Socket]
ListenStream=3
[Socket]
ListenStream=4
FileDescriptorName=other
FileDescriptorName=admin
"""
    made = podfile.parse(text, "web.pod", OPTIONS)
    assert made.sections == {"Socket": ["ListenStream=1", "ListenStream=3"]}
    more = ["FileDescriptorName=admin", "ListenStream=2", "ListenStream=4", "FileDescriptorName=other", "FileDescriptorName=admin"]
    assert made.sockets == {"admin": more}
    made = podfile.parse("[Pod]\nImage=a\n" + "[Socket]\nFileDescriptorName=a\nListenStream=1\n" * 2, "web.pod", OPTIONS)
    assert made.sections == {"Socket": ["FileDescriptorName=a", "ListenStream=1"] * 2} and made.sockets == {}


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", "x.pod", "no Image="),
        ("[Pod]\nImage=a\n[Socket]\nA=1\n[Socket]\nFileDescriptorName=x/y", "x.pod:6", "cannot name a further socket"),
        ("[Pod]\nImage=a\n[Socket]\nA=1\n[Socket]\nFileDescriptorName=x:y", "x.pod:6", "cannot name a further socket"),
        ("[Pod]\nImage=a\n[Pod]\nArgs=b", "x.pod", "no Image="),
        ("[Pod]\nImage=a\nImage=b", "x.pod:3", "twice"),
        ("[Pod]\nImage=", "x.pod:2", "empty"),
        ("Image=a", "x.pod:1", "before any section"),
        ("[Pod]\nImage", "x.pod:2", "not KEY=VALUE"),
        ("[Pods]\n", "x.pod:1", "unknown section"),
        ("[Pod]\nImage=a\nVolum=/a:/b", "x.pod:3", "unknown key Volum="),
        ("[Pod]\nImage=a\nReadOnly=maybe", "x.pod:3", "not true or false"),
        ('[Pod]\nImage=a\nExec=/bin/x "y', "x.pod:3", "not closed"),
        ("[Pod]\nImage=a\nArgs=x\\", "x.pod:3", "ends with a backslash"),
    ],
)
def test_what_is_wrong_is_named(text: str, where: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        podfile.parse(text, "x.pod", OPTIONS)
    assert (caught.value.subject, reason in caught.value.reason, bool(caught.value.hint)) == (where, True, True)


def test_a_name_that_no_pod_may_have_is_refused_where_it_is_written() -> None:
    options = {"pod-name": ("--pod-name", False)}
    with pytest.raises(UsageError, match="looks like the beginning of a UUID") as caught:
        podfile.parse("[Pod]\nImage=a\nPodName=deadbeef\n", "x.pod", options)
    assert caught.value.origin == "x.pod:3: PodName="
    podfile.parse("[Pod]\nImage=a\nPodName=%p\n", "x.pod", options)


def test_a_persons_lines_come_last_and_decide_what_starts_it() -> None:
    extra = {"Service": ["Restart=always"], "Install": ["WantedBy=a.target b.target", "RequiredBy=c.target"]}
    made = unit.service("web", ["/bin/pyrun", "run"], description="100 %\nweb", extra=extra, retain=["CAP_NET_RAW"])
    assert made.wants == ["a.target.wants", "b.target.wants", "c.target.requires"]
    service = made.text.partition("[Service]")[2].partition("\n\n")[0].splitlines()
    assert [line for line in service if line.startswith("Restart=")] == ["Restart=always"] and service[-1] == "Restart=always"
    assert "Description=100 %% web\n" in made.text
    assert "CAP_NET_RAW" in made.text
    assert "NoNewPrivileges=yes" in made.text


def pyrun(*arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYRUN_ROOT": "/var/lib/pyrun", **more}
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, env=env, timeout=60)


def test_the_command_of_a_generated_unit_is_the_one_that_was_given(tmp_path: Path) -> None:
    given_words = ["-v", "/srv:/srv:ro", "-e", "A=$x 50%", "example.com/web:1.0", "--exec", "/bin/a b", "--", "--unit", "x;y", ""]
    made = pyrun("generate", "systemd", "--unit=web", "--into", tmp_path, *given_words)
    assert (made.returncode, made.stderr, made.stdout) == (0, "", f"{tmp_path}/web.service\n")
    lines = (tmp_path / "web.service").read_text().splitlines()
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    found = [word.replace("$$", "$").replace("%%", "%") for word in words.split(start.partition("=")[2])]
    assert found == [str(COMMAND), "run", "--pod-name=web", *given_words]
    assert "RequiresMountsFor=/srv" in lines
    assert not any(line.startswith("WorkingDirectory") for line in lines)


def test_a_unit_for_several_apps(tmp_path: Path) -> None:
    """What any of them needs the unit has; options of the verb may stand behind any app."""
    first = ["example.com/web:1.0", "-v", "/srv:/srv:ro", "--caps-retain", "CAP_SYS_NICE", "--", "--unit", "x"]
    second = ["example.com/cache", "--device", "/dev/kmsg", "--insecure-options", "new-privs"]
    made = pyrun("generate", "systemd", *first, "---", *second, "--unit", "shop", "--into", tmp_path, "---", "--restart", "no")
    assert (made.returncode, made.stderr, made.stdout) == (0, "", f"{tmp_path}/shop.service\n")
    text = (tmp_path / "shop.service").read_text()
    assert f"ExecStart={COMMAND} run --pod-name=shop {' '.join(first)} --- {' '.join(second)} --- --restart no\n" in text
    assert "Description=example.com/web:1.0, example.com/cache (pyrun)\n" in text
    assert "RequiresMountsFor=/srv\n" in text and "CAP_SYS_NICE" in text
    assert "DeviceAllow=/dev/kmsg rwm\n" in text and "NoNewPrivileges" not in text
    manifest = pyrun("generate", "systemd", "--unit", "shop", "--pod-manifest", "pod.json").stdout
    assert "run --pod-name=shop --pod-manifest pod.json\n" in manifest and f"WorkingDirectory={os.getcwd()}\n" in manifest


def test_several_names_make_a_unit_each(tmp_path: Path) -> None:
    """All or none are written; options of one of them are refused, and so is a name for all."""
    done = pyrun("generate", "systemd", "example.com/web:1.0", "example.com/cache", "--into", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{tmp_path}/web.service", f"{tmp_path}/cache.service"]
    assert "run --pod-name=cache example.com/cache\n" in (tmp_path / "cache.service").read_text()
    printed = pyrun("generate", "systemd", "example.com/web:1.0", "example.com/cache").stdout
    assert printed.startswith("# web.service\n[Unit]\n") and "\n# cache.service\n[Unit]\n" in printed
    refused = pyrun("generate", "systemd", "example.com/web", "example.com/cache", "--net", "host")
    assert refused.returncode == 2 and "one by one" in refused.stderr
    twice = pyrun("generate", "systemd", "example.com/web", "example.org/web", "--into", tmp_path / "no")
    assert twice.returncode == 2 and "would be the unit of two" in twice.stderr and not (tmp_path / "no").exists()


def test_relative_paths_keep_their_meaning() -> None:
    made = pyrun("generate", "systemd", "--unit", "web", "./web.aci")
    assert f"WorkingDirectory={os.getcwd()}\n" in made.stdout


def test_a_wrong_file_does_not_keep_the_others_from_starting(tmp_path: Path) -> None:
    """What the generator runs at boot: exit code and one error for the wrong one, units for the others."""
    (tmp_path / "bad.pod").write_text("[Pod]\nImage=a\nUpper=nowhere\n")
    (tmp_path / "good.pod").write_text("[Pod]\nImage=example.com/web\n[Socket]\nListenStream=80\n")
    os.mkfifo(tmp_path / "pipe.pod")  # nobody writes to it: the boot would wait for ever
    (tmp_path / "folder.pod").mkdir()
    wrong = (tmp_path / name for name in ("bad.pod", "pipe.pod", "folder.pod"))
    done = pyrun("systemd", "units", "--into", tmp_path / "out", *wrong, tmp_path / "good.pod")
    assert done.returncode == 2
    assert "bad.pod" in done.stderr and "Traceback" not in done.stderr
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if not path.is_dir())
    assert found == ["good.service", "good.socket", "sockets.target.wants/good.socket"]


@pytest.mark.parametrize(
    ("name", "line", "found"),
    [
        ("web", "ReadOnly=yes", "--pod-name=web"),
        ("web", "PodName=other", "--pod-name=other"),
        ("web", "Keep=yes", "--pod-name=web --take-name"),  # the pod that ended before has the name still
        ("web", "Keep=yes\nPodName=other", "--take-name --pod-name=other"),
        ("Web", "ReadOnly=yes", ""),
    ],
)
def test_the_pod_has_the_units_name(tmp_path: Path, name: str, line: str, found: str) -> None:
    (tmp_path / f"{name}.pod").write_text(f"[Pod]\nImage=example.com/web\n{line}\n")
    done = pyrun("systemd", "units", tmp_path / f"{name}.pod")
    (start,) = [one for one in done.stdout.splitlines() if one.startswith("ExecStart=")]
    assert [word for word in start.split() if word.startswith(("--pod-name", "--take-name"))] == found.split()


def test_what_is_wrong_stands_in_the_kernels_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line of the priority err with the file, whatever is in its name, as the generator calls it; standard error has it too."""
    log = tmp_path / "kmsg"
    log.touch()
    monkeypatch.setattr(host, "_KMSG", str(log))
    wrong = [tmp_path / "bad.pod", tmp_path / "a\nb.pod"]
    for path in wrong:
        path.write_text("[Pod]\nImage=a\nUpper=nowhere\n" + "x" * 2000 + "=\n")
    for path in wrong:
        assert main(["systemd", "units", "--kmsg", "--into", str(tmp_path / "out"), str(path)]) in (2, 125)
    lines = log.read_text().splitlines()
    assert [line.startswith("<3>pyrun: ") for line in lines] == [True, True] and max(map(len, lines)) < 1000
    assert str(wrong[0]) in lines[0] and "unknown key" in lines[0] and "b.pod" in lines[1]
    assert str(wrong[0]) in capsys.readouterr().err
    assert main(["systemd", "units", str(wrong[0])]) == 125 and len(log.read_text().splitlines()) == 2, "not when a person asks"
    (generator,) = [text for path, (text, _) in host.files_for_host("/usr/bin/pyrun", "/var/lib/pyrun").items() if "generators" in path]
    assert "systemd units --kmsg --into" in generator


def test_units_of_several_sockets(tmp_path: Path) -> None:
    """All of them start the one service, which waits for all and gets all."""
    sockets = "".join(f"[Socket]\nListenStream={at}\nFileDescriptorName={name}\n" for at, name in enumerate(("web", "admin", "x")))
    (tmp_path / "shop.pod").write_text(f"[Pod]\nImage=example.com/web\n{sockets}")
    done = pyrun("systemd", "units", "--into", tmp_path / "out", tmp_path / "shop.pod")
    assert (done.returncode, done.stderr) == (0, "")
    names = ["shop.socket", "shop@admin.socket", "shop@x.socket"]
    assert sorted(os.listdir(tmp_path / "out")) == ["shop.service", *names, "sockets.target.wants"]
    assert sorted(os.listdir(tmp_path / "out/sockets.target.wants")) == names
    service = (tmp_path / "out/shop.service").read_text().splitlines()
    assert {f"{key}={' '.join(names)}" for key in ("Requires", "After", "Sockets")} <= set(service) and "[Install]" not in service
    for at, name in enumerate(names):
        text = (tmp_path / "out" / name).read_text()
        assert f"ListenStream={at}\n" in text and ("Service=shop.service\n" in text) == (at > 0)


def test_earlier_directories_hide_later_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, "ab"), (second, "abc")):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.pod").touch()
    (first / "b.pod").unlink()
    (first / "b.pod").symlink_to("/dev/null")
    (second / "readme").touch()
    assert host.pod_files([str(first), str(second), str(tmp_path / "none")]) == [f"{first}/a.pod", f"{second}/c.pod"]


def test_what_is_installed_is_removed_again(tmp_path: Path) -> None:
    done = pyrun("systemd", "install", "--destdir", tmp_path)
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert (done.returncode, sorted(done.stdout.split())) == (0, sorted(map(str, made)))
    generator = next(path for path in made if "generator" in str(path))
    assert os.access(generator, os.X_OK)
    assert subprocess.run(["sh", "-n", generator]).returncode == 0
    assert pyrun("systemd", "remove", "--destdir", tmp_path).returncode == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_devices_pass_the_units_own_list() -> None:
    made = unit.service("x", ["/usr/bin/pyrun"], description="x", devices=["/dev/fuse", "/dev/a b"])
    assert "DevicePolicy=closed\n" in made.text and 'DeviceAllow=/dev/fuse rwm\nDeviceAllow="/dev/a b" rwm\n' in made.text
