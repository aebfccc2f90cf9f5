"""The tables of `pyrun.cli.options` for whoever only parses.  In a bundle it is shorter: see `pyrun.cli.bundling`."""

from pyrun.cli.options import COMMON, GLOBAL, INSECURE, KINDS, VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyrun.cli.verbs_images import ImageArgs
    from pyrun.cli.verbs_limits import LimitArgs
    from pyrun.cli.verbs_network import NetworkArgs
    from pyrun.cli.verbs_pods import PodArgs
    from pyrun.cli.verbs_trust import TrustArgs

    class Values(PodArgs, LimitArgs, NetworkArgs, TrustArgs, ImageArgs):
        """What `pyrun.cli.parse.Args` has of the other tables: annotations alone."""
else:
    Values = object

__all__ = ["COMMON", "GLOBAL", "INSECURE", "KINDS", "VERBS", "Values"]
