"""A sender as a process of its own, to be killed: keeps the messages FIRST to LAST and says each number that is kept.

python -m tests.simulators.syslog_process SPOOL PORT CERTIFICATE KEY AUTHORITY FIRST LAST
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dicom_bridge.tls import TlsFiles
from service.syslog import Header, Patience, Repository, SyslogSender, frame
from service.syslog_spool import Spool

AT = "2026-11-23T16:07:12.123456Z"


def main() -> None:
    """Keep, say so, and go on sending until somebody kills us."""
    spool, port, *paths, first, last = sys.argv[1:]
    certificate, key, authority = map(Path, paths)
    repository = Repository("127.0.0.1", TlsFiles(certificate, key, authority), int(port))
    sender = SyslogSender(Spool(Path(spool)), repository, Patience(first_s=0.05, most_s=0.2, settle_s=0.3))
    sender.start()
    for number in range(int(first), int(last) + 1):
        text = f"{number} " + "x" * (number * 37 % 2000)
        if sender.offer([frame(Header("test"), text, at=AT)]):
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
