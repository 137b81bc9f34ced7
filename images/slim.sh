#!/bin/sh
# Takes from a Debian with Python what a service never calls, and compiles the standard library, which an image that
# is read-only at run time could not. What stays: a shell and coreutils for a person who looks inside, certificates,
# time zones, and dpkg's list of packages, which scanners of vulnerabilities read.
set -eu

case "${1:-cpu}" in
cuda) keep_compiler=yes ;;
*) keep_compiler=no ;;
esac

if [ "$keep_compiler" = yes ]; then
    # Triton compiles a stub against libcuda and Python's headers when a kernel is first launched.
    headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')
    apt-get update -q
    apt-get install -q -y --no-install-recommends gcc libc6-dev
    [ -e "$headers/Python.h" ] || apt-get install -q -y --no-install-recommends libpython3-dev
fi

installed() { dpkg-query -W -f '${binary:Package} ${db:Status-Status}\n' | awk '$2 == "installed" {print $1}'; }

# Package managers, accounts, file systems, start scripts, documentation.
unused='adduser|apt|bsdutils|debian-archive-keyring|debconf|e2fsprogs|gpgv|hostname|init-system-helpers|libapt-pkg[0-9.a-z]*|libext2fs[0-9a-z]*|libgnutls30.*|libgcrypt20|libhogweed6.*|libnettle8.*|libp11-kit0|libpam.*|libcap-ng0|libaudit.*|libperl.*|libsemanage.*|libsepol.*|libss2|libsystemd0|libxxhash0|login.*|logsave|mount|ncurses-bin|openssl|passwd|perl.*|sqv|sysvinit-utils|usr-is-merged|util-linux.*'
purged=$(installed | sed 's/:[a-z0-9]*$//' | grep -xE "$unused" || true)
# Scripts of packages that are going may call each other; what counts is looked at below.
# shellcheck disable=SC2086
dpkg --purge --force-all $purged >/dev/null 2>&1 || true
left=$(installed | sed 's/:[a-z0-9]*$//' | grep -xE "$unused" || true)
[ -z "$left" ] || { echo "slim: could not remove: $left" >&2; exit 1; }

library=$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
cd "$library"
rm -rf ensurepip idlelib lib2to3 pydoc_data test tkinter turtledemo turtle.py site-packages/pip* \
    "$(dirname "$library")"/libpython3*.a config-*/
[ "$keep_compiler" = yes ] || rm -rf "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')"
rm -rf /etc/apt /usr/lib/apt /var/lib/apt /var/cache/apt /var/cache/debconf /var/log/* /var/lib/dpkg/info/*.md5sums \
    /usr/share/doc /usr/share/info /usr/share/man /usr/share/locale /usr/share/lintian /usr/share/perl* \
    /usr/share/bash-completion /usr/share/python-wheels /usr/share/zoneinfo/right /usr/share/zoneinfo/posix /usr/share/pixmaps /usr/share/menu /usr/lib/*-linux-gnu/gconv \
    /usr/bin/dpkg* /usr/sbin/dpkg* /usr/bin/localedef /usr/bin/pip* /usr/local/bin/pip* /usr/local/bin/idle* \
    /usr/local/bin/2to3* /usr/local/bin/pydoc* /root/.cache /tmp/* /run/*
find / -xdev -depth -name __pycache__ -path '*/python3*' -exec rm -rf {} +
# Unchecked: a file's time changes on its way into an image, its content doesn't.
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash "$library"

echo 'octavo:x:65532:65532::/tmp:/bin/sh' >>/etc/passwd
chmod 711 /root  # a volume may be mounted below it, at /root/.cache/huggingface
echo 'octavo:x:65532:' >>/etc/group

missing=$(find /bin /usr/bin /usr/local/bin /usr/lib /usr/local/lib -xdev -type f \( -name '*.so*' -o -perm -100 \) \
    -exec ldd {} + 2>/dev/null | grep 'not found' | sort -u || true)
[ -z "$missing" ] || { echo "slim: something that stays needs what went:" >&2; echo "$missing" >&2; exit 1; }
