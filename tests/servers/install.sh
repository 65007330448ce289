#!/usr/bin/env bash
# Installs what the tests with real servers need: as root on Debian and Ubuntu, only what is missing, and without starting any of
# it. Always succeeds: where something cannot be installed it says so, and the tests that need it are skipped.
set -u
PATH=$PATH:/usr/sbin:/sbin
POLICY=/usr/sbin/policy-rc.d

# A package, and what is there when it is installed: a program, or a path.
NEEDED="
postfix         postfix
postfix-lmdb    /usr/lib/postfix/postfix-lmdb.so
dovecot-core    doveadm
dovecot-imapd   /usr/lib/dovecot/imap
dovecot-mysql   /usr/lib/dovecot/modules/auth/libdriver_mysql.so
dovecot-pgsql   /usr/lib/dovecot/modules/auth/libdriver_pgsql.so
dovecot-sqlite  /usr/lib/dovecot/modules/auth/libdriver_sqlite.so
mariadb-server  mariadbd
postgresql      /usr/lib/postgresql/*/bin/initdb
nftables        nft
fail2ban        fail2ban-client
iproute2        ss
"

missing() {
    while read -r package there; do
        case $there in
            "") ;;
            /*) compgen -G "$there" >/dev/null || echo "$package" ;;
            *) command -v "$there" >/dev/null || echo "$package" ;;
        esac
    done <<<"$NEEDED"
}

install() {
    # --no-remove: a machine that sends its mail with another server keeps it.
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=120 -o Acquire::Retries=1 -o Acquire::http::Timeout=15 "$@" </dev/null >"$log" 2>&1
}

mapfile -t packages < <(missing)
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests with real mail servers are skipped; as root, with these packages of Debian, they would run: ${packages[*]}" >&2
    exit 0
fi

echo "installing ${packages[*]} for the tests with real servers, without starting them"
log=$(mktemp)
made_policy=
clean_up() {
    [ -z "$made_policy" ] || rm -f "$POLICY"
    rm -f "$log"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Where there is such a policy already, as in most containers, it is somebody's and stays.
if [ ! -e "$POLICY" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$POLICY" && chmod 755 "$POLICY"
fi
echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections

# The package lists are fetched only where they are missing or too old.
if ! install "${packages[@]}"; then
    timeout 120 apt-get -qq update -o Acquire::Retries=1 -o Acquire::http::Timeout=15 </dev/null >/dev/null 2>&1
    if ! install "${packages[@]}"; then
        echo "could not be installed, so the tests that need them are skipped: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")" >&2
        exit 0
    fi
fi

# Nor do they start with the machine the next time.
if [ -d /run/systemd/system ]; then
    for package in "${packages[@]}"; do
        systemctl --quiet disable "${package%%-*}" >/dev/null 2>&1
    done
fi
