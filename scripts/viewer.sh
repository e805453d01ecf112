#!/usr/bin/env bash
# Fetches the built OHIF viewer (MIT licence) from its npm package, by version and digest, into .tools/ohif/VERSION/dist.
# A second run takes no time. Version and digest are pinned: which version shows what is in docs/hazards.md.
#   usage: scripts/viewer.sh [VERSION ...]      without a version: those that the tests use
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'error %s: %s\n' "$1" "$2" >&2; exit 1; }

digest_of() {
  case "$1" in
    3.13.2) echo 'WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==' ;;
    3.12.10) echo '0kuF66Mq9c9dMD++bUsTjMrJpXJwaZhz9B4uS244DawAjSkTwIYFU93pxPuRUQixaRi7QAHlF3Fe1qudBlZrmA==' ;;
    *) fail VIEWER_UNKNOWN "no digest is known for @ohif/app $1" ;;
  esac
}

[ "$#" -gt 0 ] || set -- 3.13.2 3.12.10
for version in "$@"; do
  wanted=$(digest_of "$version")
  folder=".tools/ohif/$version"
  [ -f "$folder/dist/index.html" ] && continue
  command -v npm >/dev/null || fail NPM_MISSING "npm is needed to fetch the viewer; it is in the Debian package 'npm'"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  printf 'setup: fetching the viewer @ohif/app %s\n' "$version"
  # The version is always named: without one, npm gives whatever suits the Node that is here.
  npm pack --silent --pack-destination "$scratch" "@ohif/app@$version" >/dev/null \
    || fail NPM_FAILED "npm could not fetch @ohif/app $version"
  found=$(openssl dgst -sha512 -binary "$scratch"/*.tgz | openssl base64 -A)
  [ "$found" = "$wanted" ] || fail VIEWER_DIGEST "what npm gave for @ohif/app $version has another digest"
  tar -xzf "$scratch"/*.tgz -C "$scratch" package/dist package/LICENSE
  mkdir -p .tools/ohif
  rm -rf "$folder"
  mv "$scratch/package" "$folder"
  rm -rf "$scratch"
done
