#!/bin/sh
# A headless Chromium for the tests of the report: one that is there, or Debian's smallest (100 MB to fetch, some 15 s).
set -eu
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
echo "installing chromium-headless-shell: the tests open the report of a run in it"
if command -v apt-get >/dev/null && $as_root apt-get update -qq; then
  for package in chromium-headless-shell chromium; do
    if DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends "$package" >/dev/null; then
      exit 0
    fi
  done
fi
echo "No Chromium, and none could be installed: install chromium-headless-shell, chromium or Google Chrome yourself." >&2
exit 1
