"""The one file that goes to a reviewer: the submission, the model's own words, and the tools to check and sign.

A zip in one form (see audit.package), so that equal dossiers give equal bytes. `submission.json` comes first: its
SHA-256 is the root that an approval names. What is under no digest (README, tools, check.json) is a convenience.
"""

import io
from collections.abc import Mapping
from importlib import resources
from typing import Final

from audit.entry import canonical
from audit.package import Writer
from ethics_review.papers import Finding
from ethics_review.submission import DOSSIER_NAME, Submission

TOOLS: Final = (("ethics_review", "reviewer.py"), ("audit", "verifier.py"))


def described(found: Finding) -> dict[str, str | bool]:
    """For machines."""
    return {
        "control": found.control,
        "outcome": found.outcome.value,
        "document": found.document,
        "what": found.what,
        "blocks": found.blocks,
    }


def pack(submission: Submission, model: Mapping[str, bytes]) -> bytes:
    """The zip. `model`: files.json, which the model's digest is of, and manifest.json. Raises PackageFull."""
    file = io.BytesIO()
    with Writer(file) as writer:
        writer.add("submission.json", submission.body)
        writer.add(DOSSIER_NAME, submission.dossier)
        for name in sorted(submission.files):
            writer.add(f"documents/{name}", submission.files[name])
        for name in sorted(model):
            writer.add(f"model/{name}", model[name])
        writer.add("check.json", canonical([described(found) for found in submission.findings]))
        for package, name in TOOLS:
            writer.add(name, resources.files(package).joinpath(name).read_bytes())
        writer.add("README.md", README.encode())
    return file.getvalue()


README: Final = """\
# A submission for review / 送审材料

This file holds what a hospital submits so that you, the reviewer, can decide whether an AI model may be used. You need
Python 3.9 or later, and nothing else. Work on a laptop that no network reaches.

Take `reviewer.py` from somebody other than whoever gave you this file; the one in here is for comparison. Then:

    python3 -I reviewer.py keygen --name reviewer.example/ai --out my.key      once; hand over the public line
    python3 -I reviewer.py check FILE                                          every digest, and the root
    python3 -I reviewer.py show FILE [DOCUMENT]                                what the papers say
    python3 -I reviewer.py approve FILE --terms terms.json --out approval.txt
    python3 -I reviewer.py sign approval.txt --key my.key --out approval.note
    python3 -I reviewer.py sign approval.note --key second.key --out approval-2.note      the second reviewer

FILE is this zip as you got it: do not unpack it for that. Read `approval.txt` before you sign it. Other decisions
(to begin, to ask for changes, to reject, to countersign a report) are acts: `python3 -I reviewer.py act --help`.

| Member | Holds |
|---|---|
| `submission.json` | the model, and the digest of every document; its SHA-256 is the root that your approval names |
| `dossier.json` | which document lies in which file |
| `documents/` | the papers, as the vendor and the hospital wrote them |
| `model/` | what the model's digest is of (`files.json`), and the model's own words (`manifest.json`) |
| `check.json` | what the hospital's software found in the papers, control by control: the hospital's words |
| `reviewer.py`, `verifier.py` | this tool, and the one that checks audit packages later on |

A digest proves that a paper was not changed after it was submitted. It does not prove that what it says is true.

## 中文

本文件是医院提交的送审材料，供您（审查方）判断某一 AI 模型可否使用。只需 Python 3.9 或更高版本，无需安装任何软件。
请在不联网的笔记本电脑上操作。`reviewer.py` 应向交付本文件者以外的来源索取，包内的一份仅供比对。

    python3 -I reviewer.py check FILE          核对每一份文件的摘要，并显示总摘要（root）
    python3 -I reviewer.py show FILE           显示各文件内容
    python3 -I reviewer.py approve FILE --terms terms.json --out approval.txt
    python3 -I reviewer.py sign approval.txt --key my.key --out approval.note

FILE 是您收到的 zip 文件本身，无需解压。签名前请通读 approval.txt。须有两名审查人签名：第二人对 approval.note 再次签名。
其他决定（受理、要求修改、不予批准、会签报告）请用 `act`。私钥文件仅本人可读，程序绝不显示私钥。
摘要只能证明材料提交后未被改动，不能证明其内容属实。`check.json` 是医院软件的检查结果，属医院的陈述。
"""
