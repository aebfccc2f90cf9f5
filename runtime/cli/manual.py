"""The prose of help and the manual pages: what the option table has no room for."""

from __future__ import annotations

SUMMARY = "run application containers without a daemon"

DESCRIPTION = (
    "pyrun runs signed application container images. It needs no daemon: each command is one process, and `pyrun run` becomes the"
    " supervisor of what it starts.",
)

_LINES = (
    "With --format json what pyrun itself says is JSON on standard error, an object a line; the last one says how it ended, with the"
    " members that `pyrun status --format json` has. Standard output stays the program's alone."
)

# verb (or group) -> paragraphs
ABOUT: dict[str, tuple[str, ...]] = {
    "generate systemd": (
        "Takes what `run` takes, or a pod of the background: the unit does the same in the foreground. With several names of pods and"
        " images each becomes a unit; of the options --into and --machined remain then.",
    ),
    "run": (
        "Runs an image in the foreground and exits as its program does. IMAGE is a file, a layout's directory, oci:PATH,"
        " oci-archive:PATH, docker-archive:PATH, docker://HOST/REPOSITORY:TAG, an https URL, or names a stored image: its id, the"
        " beginning of one, a tag, or NAME[:VERSION][,LABEL=VALUE]. What is not stored is imported first.",
        "Options may stand before or after the image. Arguments for the program follow `--`, and `---` ends them; another image"
        " makes a pod of several apps.",
        "An image must be signed by a key that `pyrun trust` was told of; `--insecure-options=image` gives that up by name.",
        _LINES,
    ),
    "attach": (
        "Shows what the app of a pod in the background writes to its terminal from now on, and passes on what is typed, where the pod was"
        " started with --interactive. Any number may be attached, as far as the limit of open files with which the pod was started allows."
        " It exits as the app does, or with 0 at the detach keys.",
        "POD is a pod's name, its UUID, or the beginning of that; it was started with `run --detach --tty`.",
        "With --format json the last line on standard error is a JSON object that says how the app ended, or that it was left.",
    ),
    "enter": (
        "Runs COMMAND in a running pod, or without one the shell that the pod's /etc/passwd names for the user, else /bin/sh, else "
        "another that is there. The process has what the app has: namespaces, cgroup, user, capabilities, system call filter, limits, "
        "variables, directory.",
        "Standard input is passed on. Where it and standard output are terminals, the process gets a terminal of the pod's.",
        "POD is a pod's name, its UUID, or the beginning of that. Options stand before it; all that follows belongs to the command.",
        _LINES,
    ),
    "exec": (
        "Runs COMMAND in a running pod with what the app has, as `enter` does, but without standard input and a terminal unless"
        " --interactive and --tty ask for them.",
        "POD is a pod's name, its UUID, or the beginning of that. Options stand before it; all that follows belongs to the command.",
        _LINES,
    ),
    "plan": (
        "Takes the arguments of `run` and prints the operations in the order in which the kernel would be asked for them, each with"
        " the flag or manifest line that it comes from. Nothing is mounted or started. The image must be in the store: `pyrun fetch`.",
    ),
    "trust": (
        "Shows the fingerprint and the owner of each OpenPGP public key and, once confirmed, trusts it to sign images: all of them,"
        " or with --prefix the image of that name and those below it. --yes confirms beforehand; without a terminal it is needed.",
    ),
    "trust list": ("Lists every key with what it is trusted for, and the origins whose unsigned images are accepted.",),
    "trust rm": (
        "FINGERPRINT has 16 digits or more. The word `unsigned` takes back the acceptance of unsigned images, of all origins or of the one"
        " that --prefix names; `policy` lets the keys decide again instead of the containers policy that was taken over.",
    ),
    "fetch": (
        "Verifies each file's signature, unpacks the image and prints its id. A file that was fetched before is not unpacked again.",
    ),
    "image": (
        "Works on stored images. REF is an id, the beginning of one, NAME[:VERSION][,LABEL=VALUE], of which the newest import is"
        " taken, or a tag.",
    ),
    "image list": (
        "Lists the stored images, newest import first, each under its own name and under its tags. With --format json it prints"
        " one object for each image, without the manifest.",
    ),
    "image show": (
        "Prints what the store knows about an image, and its manifest, as JSON; with --format text a summary.",
        "REF is an image's id, the beginning of one, NAME[:VERSION][,LABEL=VALUE], or a tag.",
    ),
    "image history": (
        "Of an OCI or Docker image, the steps that its configuration tells, with the layers that they made; of an App Container"
        " Image, the images that it is made of. The last one, or the topmost, comes first.",
    ),
    "image verify": (
        "Reads the stored bytes again and compares them with the digests and the signature that vouch for them: the record, the"
        " shipped files, and of each unpacked file the name, content, owner, mode, attributes and links. It prints one line"
        " for each image, and one for each thing that is wrong; then it exits with 125. Times are not compared.",
    ),
    "image tag": (
        "Lets NAME, or NAME:VERSION, mean a stored image as well. A tag that is there already moves, and a note says what it meant before.",
        "Names that images bring always come first: a tag cannot take one, and an image that brings a tag's name later hides the"
        " tag. Below a prefix for which keys are trusted, only images that one of these keys signed can be tagged. An image is"
        " always checked as what it calls itself, whatever tag it is run by.",
    ),
    "image tags": (
        "Asks the registry, and fetches nothing. NAME is docker://HOST/REPOSITORY or HOST/REPOSITORY. Credentials, certificates, mirrors"
        " and aliases of short names are as for `fetch`.",
    ),
    "image rm": (
        "Removes images, their tags, and the layers and files that no other image needs. It prints the full ids. Where REF is a"
        " tag, only the tag is removed. An image that a pod uses or that another image depends on stays.",
    ),
    "image gc": (
        "Removes layers, files, names and notes that no image needs, and what crashed imports left. With --all it also removes"
        " every image that no pod uses and that no image which stays depends on.",
    ),
    "image du": (
        "Shows the bytes of each image: in all, shared with others, and those that `pyrun image rm` would free; then those of the"
        " whole store, where what is shared counts once.",
    ),
    "image export": (
        "Writes an App Container Image to FILE, byte for byte as it was imported, and its signature to FILE.asc where it has one.",
        "With --oci it writes an OCI image layout, which skopeo, podman, umoci and others read. Documents and layers of an OCI or"
        " Docker image are the very ones that were imported, digests included; an App Container Image is converted, layer by layer.",
    ),
    "image render": (
        "Writes the files that an app of the image would see, those of all layers and dependencies, into the new directory DIR, with"
        " owners, modes, extended attributes, times, links and holes.",
    ),
    "image extract": (
        "Unpacks an App Container Image as it was shipped, `manifest` and `rootfs`, into the new directory DIR. With --path it writes"
        " one file or directory of what an app would see, as DIR, or a file's content to standard output where DIR is -.",
    ),
    "gc": (
        "Removes ended pods, what a killed run left behind, and temporary files of processes that are gone. It prints what it removed.",
    ),
    "prepare": (
        "Decides everything that `run` would decide, makes the pod and prints its UUID. `run-prepared` then runs it within milliseconds."
        " What nobody ran for a day `gc` removes. The network is made when the pod runs: other pods may have its ports until then, and the"
        " start takes longer. With --net-ahead it is made at once.",
        "POD is a UUID, the beginning of one, or a name; --uuid-file reads one from a file. So it is for all verbs about pods.",
    ),
    "run-prepared": ("Runs a prepared pod, once. Of several who try at the same time one succeeds.", _LINES),
    "list": ("Lists the pods with their state: preparing, prepared, running, paused, restarting or exited, with the exit code.",),
    "wait": (
        "Exits as the app of the last pod did. An exit code that nobody can know, since the pod's supervisor was killed, is 125;"
        " 124 says that --timeout was over.",
    ),
    "logs": (
        "What the app wrote to its standard output goes to standard output, and its errors to standard error. A pod whose output"
        " went to the journal is read from there.",
    ),
    "stop": (
        "Sends the signal to the app, waits, and kills every process of the pod that is left. The pod is not started again, whatever"
        " its restart policy. A pod that has ended is no error.",
    ),
    "restart": ("Works for pods of `run --detach` and `prepare` that are kept at their end. The files of the run before are still there.",),
    "register": (
        "The pods appear in machinectl under their names, with their units, until they end. Without a POD it is that of $MAINPID, as in"
        " ExecStartPost= of a unit; `pyrun generate systemd --machined` writes such a unit.",
    ),
    "rename": ("pyrun rename POD NAME gives the pod another name.",),
    "cp": (
        "One of the two paths is in a pod: POD:/PATH. Into a directory that is there, else by that name. What arrives is the caller's"
        " on the host, and root's in the pod. Links are copied as links; devices, sockets and set-id bits are not.",
    ),
    "export": (
        "The root as the app sees it, without volumes and kernel file systems; removed files are told by --changes alone.",
        "Of a running pod it is no snapshot: pause it first if that matters.",
    ),
    "events": (
        "One line an event: prepared, started, running, died, exited, removed. Of all pods it tells until it is interrupted, of those "
        "that are named until the last of them is removed.",
    ),
    "completion": ("Prints a script that completes verbs, options, their values and stored images. SHELL is bash, zsh or fish.",),
}

# verb -> (command line, what it does)
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "": (
        ("pyrun trust --prefix example.com/app key.asc", "trust a key for one family of images"),
        ("pyrun run app.aci", "run a signed image"),
        ("pyrun run -it app.aci --exec /bin/sh", "look around inside"),
    ),
    "run": (
        ("pyrun run app.aci", "run a signed image file"),
        ("pyrun run -it example.com/app:1.2 --exec /bin/sh", "a shell in a stored image"),
        ("pyrun run app.aci --user www -e PORT=80 -- --verbose /srv", "a user, a variable, arguments"),
        ("pyrun run -v /srv/data:/data:ro app.aci", "show a host directory inside, read-only"),
        ("pyrun run --volume db,kind=host,source=/srv/db app.aci --mount volume=db,target=/var/lib/db", "the same as rkt spells it"),
    ),
    "prepare": (("pyrun prepare --pod-name web app.aci", "and later: pyrun run-prepared --detach web"),),
    "logs": (("pyrun logs -f --since 10m web", "follow what it writes"),),
    "stop": (("pyrun stop --signal INT --timeout 30s web", "with patience"),),
    "rename": (("pyrun rename 3f2a web", "name a pod"),),
    "cp": (("pyrun cp web:/etc/nginx.conf .", "out of a pod"), ("pyrun cp index.html web:/srv/", "and into one")),
    "export": (("pyrun export --changes -o layer.tar web", "what the app has changed"),),
    "attach": (("pyrun attach --detach-keys ctrl-x,x web", "attach, and leave with ctrl-x x"),),
    "enter": (
        ("pyrun enter 1f3c", "a shell in the pod whose UUID begins so"),
        ("pyrun enter --user root 1f3c /bin/ps", "another program, as another user"),
    ),
    "exec": (
        ("pyrun exec 1f3c /bin/cat /etc/hosts", "a program and its output"),
        ("pyrun exec -i 1f3c /bin/sh <script", "with standard input"),
    ),
    "plan": (
        ("pyrun plan app.aci --readonly-rootfs", "what a read-only root changes"),
        ("pyrun plan --format json app.aci", "the same for programs"),
    ),
    "trust": (
        ("pyrun trust key.asc", "trust a key for all images, after a question"),
        ("pyrun trust --yes --prefix example.com key.asc", "for the images of one domain, without one"),
        ("pyrun trust list", "what is trusted"),
    ),
    "fetch": (("pyrun fetch app.aci", "store an image; app.aci.asc is its signature"),),
    "image list": (
        ("pyrun image list --sort size --columns name,version,size", "what takes most of the disk"),
        ("pyrun image list -q --filter used=no --filter older-than=30d", "ids of images that no pod uses, a month old"),
    ),
    "image verify": (("pyrun image verify --all", "look for damage"),),
    "image tag": (("pyrun image tag example.com/app:1.1 app:stable", "a short name"),),
    "image tags": (("pyrun image tags docker://registry.example.com/team/app", "which versions there are"),),
    "image rm": (("pyrun image rm example.com/app:1.1", "remove one version"),),
    "image gc": (("pyrun image gc --all --older-than 7d --dry-run", "what a week's grace would leave"),),
    "image export": (
        ("pyrun image export example.com/app app.aci", "the file that was imported"),
        ("pyrun image export example.com/app --oci app && skopeo copy oci:app docker://host/app", "push it to a registry"),
    ),
    "image render": (("pyrun image render example.com/app /srv/app", "the whole file system"),),
    "image extract": (("pyrun image extract example.com/app - --path /etc/os-release", "look into one file"),),
    "gc": (("pyrun gc --grace-period 30m", "spare what ended in the last half hour"),),
    "completion": (
        ("source <(pyrun completion bash)", "load it into bash"),
        ("source <(pyrun completion zsh)", "load it into zsh"),
        ("pyrun completion fish | source", "load it into fish"),
    ),
}

EXIT_CODES: tuple[tuple[str, str], ...] = (
    ("0", "success"),
    ("2", "wrong usage: an option or an argument"),
    ("125", "pyrun failed; it says why on standard error"),
)
_STARTED: tuple[tuple[str, str], ...] = (
    ("126", "the program is in the image but cannot be executed"),
    ("127", "the program is not in the image"),
)
_ENDED: tuple[tuple[str, str], ...] = (
    ("128+n", "signal n ended the program"),
    ("other", "the program's own code"),
)
_LATE: tuple[tuple[str, str], ...] = (("124", "the time of --timeout was over"),)
# What some verbs add.
MORE_EXIT_CODES: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("run", "run-prepared", "enter", "exec"), _STARTED + _ENDED),
    "attach": _ENDED,
    **dict.fromkeys(("status", "wait"), _LATE + _ENDED),
}

ENVIRONMENT: tuple[tuple[str, str], ...] = (
    ("PYRUN_ROOT", "the directory of images, pods and keys, unless --root names one"),
    ("PYRUN_DEBUG", "1 shows a traceback with each error, as --debug does"),
    ("NO_COLOR", "anything turns colours off"),
)
