#!/bin/sh
# Make a stand-in for python:3.11-slim out of Debian packages, for machines that reach no image registry.
#
#   usage: scripts/make_base_image.sh [tag]         as root; needs debootstrap and a Docker engine
#   then:  BASE_IMAGE=<tag> docker-compose up -d --build
#
# DEBIAN_SUITE (bookworm has Python 3.11) and DEBIAN_MIRROR are optional. The rest of the image behaves like the
# official one where our Dockerfile can tell: `python` is on the PATH, and CMD is python3.
set -eu

tag=${1:-local/python:3.11}
suite=${DEBIAN_SUITE:-bookworm}
packages=ca-certificates,python3,python3-venv,python3-pip
trust_store=/etc/ssl/certs/ca-certificates.crt

command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap" >&2; exit 2; }
docker info >/dev/null 2>&1 || { echo "no Docker engine answers" >&2; exit 2; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT INT TERM

debootstrap --variant=minbase --include="$packages" "$suite" "$root/tree" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
    >"$root/log" 2>&1 || { tail -n 20 "$root/log" >&2; exit 1; }

ln -sf python3 "$root/tree/usr/bin/python"
rm -f "$root"/tree/usr/lib/python3*/EXTERNALLY-MANAGED
# The host's trust store goes along, so that a build also works behind a proxy with a certificate of its own.
if [ -f "$trust_store" ]; then cp "$trust_store" "$root/tree$trust_store"; fi
for litter in var/cache/apt/archives var/lib/apt/lists usr/share/doc usr/share/man usr/share/locale; do
    rm -rf "${root:?}/tree/$litter"
    mkdir -p "$root/tree/$litter"
done

tar -C "$root/tree" --numeric-owner -c . | docker import \
    --change "ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 SSL_CERT_FILE=$trust_store PIP_CERT=$trust_store" \
    --change "ENV REQUESTS_CA_BUNDLE=$trust_store NODE_EXTRA_CA_CERTS=$trust_store" \
    --change "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    --change 'CMD ["python3"]' - "$tag" >/dev/null
echo "$tag: $(docker image inspect --format '{{.Size}}' "$tag" | awk '{printf "%.0f MB", $1 / 1e6}')"
