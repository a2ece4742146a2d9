#!/bin/bash
# Makes an image out of Debian packages, and of PyPI's: debian.sh DIRECTORY ARCHIVE
#
# DIRECTORY has a file `image` (NAME, PACKAGES, perhaps WHEELS, and LEFT_OUT: paths that
# are not wanted), `config.json` (Cmd, Env, User, … of the image) and `root`, the
# image's own files. Packages are unpacked, not installed: none of their scripts runs. Downloads are kept in PODD_IMAGE_CACHE
# (~/.cache/podd-images). The archive is what `docker save` would write; `podd load -i ARCHIVE` takes it.
set -euo pipefail
directory=$(cd "$1" && pwd)
archive=$(realpath "$2")
NAME='' PACKAGES='' WHEELS='' LEFT_OUT=''
. "$directory/image"
cache=${PODD_IMAGE_CACHE:-$HOME/.cache/podd-images}
mkdir -p "$cache/archives/partial" "$cache/empty/partial"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{etc,run,srv,tmp,var/log}
chmod 1777 "$root/tmp"
for name in bin sbin lib lib64; do
    ln -s "usr/$name" "$root/$name"
done

# apt is asked as if nothing were installed, so that it tells of all that the packages need, down to the C library.
apt() {
    LC_ALL=C apt-get -q -y -o Dir::State::status=/dev/null -o APT::Install-Recommends=false \
        -o APT::Sandbox::User=root -o Dir::Cache::archives="$@" install $PACKAGES
}
exec 9>"$cache/lock"
flock 9
apt "$cache/archives" --download-only >/dev/null
for file in $(apt "$cache/empty" --print-uris | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p"); do
    dpkg-deb --fsys-tarfile "$cache/archives/$file" | tar --keep-directory-symlink -xpf - -C "$root"
done
if [ -n "$WHEELS" ]; then
    pip3 --disable-pip-version-check install --quiet --no-compile --no-warn-script-location --root-user-action=ignore \
        --cache-dir "$cache/pip" --target "$root/usr/lib/python3/dist-packages" --only-binary :all: \
        --python-version 3.11 --implementation cp $WHEELS
fi
flock -u 9
(cd "$root" && rm -rf $LEFT_OUT)
rm -rf "$root"/usr/share/{doc,man,info,locale,lintian,bash-completion}

# What the packages' scripts would have made.
cat >"$root/etc/passwd" <<USERS
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
postgres:x:999:999:PostgreSQL:/var/lib/postgresql:/bin/sh
app:x:1000:1000:app:/srv:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
USERS
printf '%s\n' root:x:0: www-data:x:33: postgres:x:999: app:x:1000: nogroup:x:65534: >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cp -rT "$directory/root" "$root"

case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$root" -cf "$work/layer.tar" .
rm -rf "$root"
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$(cat "$directory/config.json")" "$layer" >"$work/config.json"
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$NAME" >"$work/manifest.json"
tar -C "$work" -cf "$archive" manifest.json config.json layer.tar
