"""`python -m service.demo.stop WORKDIR`: stops the servers that `make demo KEEP=1` left up."""

import sys
from pathlib import Path

from service.demo.servers import Servers


def main(words: list[str]) -> int:
    """Stop them; says which. Exit status 2 without a folder."""
    if len(words) != 1:
        sys.stderr.write("usage: python -m service.demo.stop WORKDIR\n")
        return 2
    stopped = Servers(Path(words[0]).absolute() / "servers.json").stop_earlier()
    sys.stdout.write(f"stopped: {', '.join(stopped)}\n" if stopped else "no server of the demo was up\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
