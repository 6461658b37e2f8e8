"""What went wrong, read from what pip and the trial have written: the package, the cause, the next step."""

from __future__ import annotations

import re
import sys
import sysconfig

from slicer.i18n import tr as _


class InstallFailure(RuntimeError):
    """`message` says what was found, `remedy` what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(" ".join(part for part in (message, remedy) if part))
        self.message, self.remedy = message, remedy


# What pip writes, the special before the general: an index that can't be reached ends in the same words as a package
# that doesn't exist. Numbers of errors are the same in every language of the system.
CAUSES = {
    "certificate": re.compile(r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError|certificate verify failed"),
    "proxy": re.compile(r"ProxyError|Tunnel connection failed|407 Proxy Authentication|Cannot connect to proxy"),
    "network": re.compile(
        r"NewConnectionError|Failed to establish a new connection|Name or service not known|getaddrinfo failed|"
        r"Temporary failure in name resolution|Network is unreachable|ConnectTimeout|Connection refused|"
        r"Connection reset|\[Errno 110\]|\[WinError 1006[0-5]\]"
    ),
    "broken_off": re.compile(r"Read timed out|ReadTimeout|IncompleteRead|Connection broken|Chunked|InvalidChunkLength"),
    "server": re.compile(r"(40[134]|50\d) (Client|Server) Error|HTTP error (40[134]|50\d)"),
    "disk": re.compile(r"No space left|\[Errno (28|122)\]|\[WinError 112\]|Disk quota exceeded|not enough space on"),
    "in_use": re.compile(r"\[WinError 32\]|being used by another process|Text file busy|\[Errno 26\]"),
    "long_name": re.compile(r"\[WinError 206\]|\[Errno (36|63)\]|File name too long|Windows Long Path support"),
    "permission": re.compile(r"Permission denied|\[Errno (1|13|30)\]|\[WinError 5\]|Access is denied|Read-only file"),
    "memory": re.compile(r"MemoryError|Cannot allocate memory|\[Errno 12\]"),
    "conflict": re.compile(r"ResolutionImpossible|conflicting dependencies|The user requested \(constraint\)"),
    "damaged": re.compile(r"DO NOT MATCH THE HASHES|is invalid|BadZipFile|has an invalid wheel|not a zip file"),
    "no_wheel": re.compile(r"No matching distribution found|is not a supported wheel"),
    "no_pip": re.compile(r"No module named '?pip\b"),
}
NAMED = (  # where pip names the package that it failed at
    re.compile(r"No matching distribution found for ([\w.-]+)"),
    re.compile(r"satisfies the requirement ([\w.-]+)"),
    re.compile(r"Cannot install ([\w.-]+)"),
    re.compile(r"after connection broken by .*: /(?:[\w./-]*/)?([\w.-]+)/\s*$", re.MULTILINE),
    re.compile(r"ERROR: (?:Wheel ')?([A-Za-z][\w.]*)-[\d.]+[\w.+-]*\.whl"),
)
BEGUN = re.compile(r"(?:Collecting|Downloading|Processing|Using cached)\s+(?:\S*/)?([A-Za-z][\w.-]*)")
NO_LIBRARY = re.compile(r"DLL load failed|WinError (126|127|1114)")


def explain(log: list[str], *, from_folder: bool = False, package: str = "") -> InstallFailure:
    """The failure that pip's lines tell of. from_folder : pip was given a folder of wheels instead of an index.
    package : the one that was being installed, "" to find it in the lines."""
    text = "\n".join(log)
    package = package or package_of(text)
    for name, pattern in CAUSES.items():
        if pattern.search(text):
            message, remedy = _words(name, from_folder)
            return InstallFailure(message.format(package=package, python=python_words()), remedy)
    last = next((line for line in reversed(log) if line.startswith("ERROR")), log[-1] if log else "")
    message = _("pip failed at '{package}': {line}").format(package=package, line=last[:300])
    return InstallFailure(message, _("See the log, and try again."))


def _words(cause: str, from_folder: bool) -> tuple[str, str]:
    """The sentence on a cause and the next step."""
    newer = _("Update Slicer and this extension, and try again.")
    lacks = _("Add it to the folder ('What is needed' lists the files), and try again.")
    return {
        "certificate": (
            _("'{package}' couldn't be fetched: the server's certificate isn't trusted here, perhaps because the "
              "network inspects encrypted connections."),
            _("Ask your IT for its certificate, name it to pip ('pip config set global.cert FILE'), and try again.")),
        "proxy": (
            _("'{package}' couldn't be fetched: the proxy refused the connection."),
            _("Set HTTPS_PROXY to your proxy (with name and password where it asks for them), and restart Slicer.")),
        "network": (
            _("'{package}' couldn't be fetched: there is no connection to the server."),
            _("Check the network, or use 'From folder…' with files from another computer.")),
        "broken_off": (_("The download of '{package}' broke off."), _("Try again.")),
        "server": (
            _("'{package}' couldn't be fetched: the server refused or lacks the file."),
            _("Try again later; with a mirror of your own, ask who keeps it.")),
        "disk": (
            _("The disk filled up while '{package}' was installed."),
            _("Free some space in your home folder, and try again.")),
        "in_use": (
            _("A file of '{package}' is in use by another program."),
            _("Close other Slicer windows, and try again; virus scanners may hold files for a minute.")),
        "long_name": (
            _("A file name of '{package}' is longer than the system allows."),
            _("Ask your IT to allow long paths, and try again.")),
        "permission": (
            _("'{package}' couldn't be written: the folder can't be written to."),
            _("Ask for the right to write into your home folder, and try again.")),
        "memory": (_("The memory ran out while '{package}' was installed."), _("Close other programs, and try again.")),
        "conflict": (_("No version of '{package}' fits the packages of this Slicer."), newer),
        "damaged": (
            _("The file of '{package}' is damaged."), _("Copy the file anew, and try again.") if from_folder else
            _("Try again.")),
        "no_wheel": (_("There is no file of '{package}' for {python}."), lacks if from_folder else newer),
        "no_pip": (_("Slicer's Python has no pip."), _("Install Slicer anew.")),
    }[cause]  # fmt: skip


def package_of(text: str) -> str:
    """The package that pip was busy with: one that it names in an error, else the last that it began with."""
    for pattern in (*NAMED, BEGUN):
        found = pattern.findall(text)
        if found:
            return re.split(r"-\d|[=<>!~\[]", found[-1])[0].rstrip("-.")
    return _("the packages")


def python_words() -> str:
    """This Python and platform, as a person says them."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return _("Python {version} on {platform}").format(version=version, platform=sysconfig.get_platform())


def not_importable(message: str) -> InstallFailure:
    """The failure of the trial after the installation, with the engine's own words."""
    remedy = _("Try again; if it happens again, choose another build, and report the log.")
    if NO_LIBRARY.search(message):
        remedy = _("Install Microsoft's Visual C++ Redistributable, and try again.")
    return InstallFailure(_("The packages were installed, but don't work: {reason}").format(reason=message), remedy)
