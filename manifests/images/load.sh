#!/bin/sh
# Makes the images of the examples in course, postgres and proxy, and loads them: load.sh [IMAGE…]
# PODD names the program (podd).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ $# -gt 0 ] || set -- api model notebook nginx postgres busybox
for image in "$@"; do
    case $image in
    busybox) "$here/busybox.sh" docker.io/library/busybox:example "$work/$image.tar" ;;
    *) "$here/debian.sh" "$here/$image" "$work/$image.tar" ;;
    esac
    "${PODD:-podd}" load -i "$work/$image.tar"
    rm "$work/$image.tar"
done
