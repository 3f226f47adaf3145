#!/usr/bin/env bash
# install.sh PACKAGE FOLDER LISTEN ADMIN : installs a package into a root of its own over this machine's, runs it, installs
# it again as an upgrade, and purges it. In a mount namespace of its own (`unshare --mount`), as root.
set -euo pipefail
package=$1 folder=$2 listen=$3 admin=$4

# A folder in memory can be the upper one of an overlay whatever file system this machine has.
mount -t tmpfs none "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
mount --rbind /proc "$folder/root/proc"
mount --rbind /dev "$folder/root/dev"
cp "$package" "$folder/root/tidings.deb"
inside() { chroot "$folder/root" "$@"; }
fail() {
    echo "$*" >&2
    exit 1
}

inside env DEBIAN_FRONTEND=noninteractive dpkg --install /tidings.deb
inside dpkg --verify tidings
inside id tidings >/dev/null || fail "no user"
[ "$(inside stat -c '%a %U %G' /etc/tidings)" = "750 root tidings" ] || fail "anybody may look into /etc/tidings"
[ "$(inside stat -c '%a %U %G' /etc/tidings/tidings.toml)" = "640 root tidings" ] || fail "the configuration is open"
inside dpkg-query --show --showformat '${Conffiles}' tidings | grep -q /etc/tidings/tidings.toml || fail "no conffile"
for file in /usr/share/man/man1/tidings.1.gz /usr/share/man/man1/tidings-serve.1.gz \
    /usr/share/bash-completion/completions/tidings /usr/share/zsh/vendor-completions/_tidings \
    /usr/share/fish/vendor_completions.d/tidings.fish /usr/share/doc/tidings/copyright \
    /usr/lib/systemd/system/tidings.service /usr/lib/sysusers.d/tidings.conf; do
    inside test -e "$file" || fail "$file is missing: $(inside dpkg --listfiles tidings)"
done
inside bash -c 'source /usr/share/bash-completion/completions/tidings && complete -p tidings' >/dev/null

# What it says of itself: every command has its help and its page, a formatter finds nothing wrong with a page, and each
# shell can read its completions.
commands=0
check_help() {
    local said name page
    said=$(inside tidings "$@" --help 2>&1) || fail "no help of $*: $said"
    grep -q "^Usage: tidings${*:+ $*}" <<<"$said" || fail "the help of $* does not say how it is used: $said"
    page=/usr/share/man/man1/$(IFS=-; echo "tidings${*:+-$*}").1
    [ "$(inside zcat "$page.gz" | groff -Kutf8 -man -ww -z -Tutf8 2>&1)" = "" ] ||
        fail "groff has warnings of $page: $(inside zcat "$page.gz" | groff -Kutf8 -man -ww -z -Tutf8 2>&1)"
    commands=$((commands + 1))
    for name in $(sed -n '/^Commands:/,/^$/s/^  \([a-z-]\+\) .*/\1/p' <<<"$said"); do
        [ "$name" = help ] || check_help "$@" "$name"
    done
}
check_help
[ "$commands" -gt 30 ] || fail "only $commands commands were found"
pages=$(inside sh -c 'ls /usr/share/man/man1/tidings*.1.gz | wc -l')
[ "$pages" = "$commands" ] || fail "$pages pages for $commands commands"
inside bash -n /usr/share/bash-completion/completions/tidings
inside zsh -n /usr/share/zsh/vendor-completions/_tidings
inside fish -n /usr/share/fish/vendor_completions.d/tidings.fish
echo "$commands commands with help and pages"

# Without a secret it refuses, and says where it belongs.
check=(runuser -u tidings -- tidings config check --config /etc/tidings/tidings.toml)
if said=$(inside "${check[@]}" 2>&1); then fail "it starts without a secret"; fi
grep -q /etc/tidings/secret <<<"$said" || fail "$said"
echo "of-this-test-and-long-enough-for-hs256" | inside install -m 640 -g tidings /dev/stdin /etc/tidings/secret
inside "${check[@]}"

# What systemd does for the unit.
inside install -d -m 700 -o tidings -g tidings /var/lib/tidings
address=(--config /etc/tidings/tidings.toml --listen "$listen" --admin-listen "$admin")
# Each of these becomes the next, so that the signal is for the server.
chroot "$folder/root" setpriv --reuid tidings --regid tidings --init-groups tidings serve "${address[@]}" 2>"$folder/said" &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
for attempt in $(seq 600); do
    if inside tidings health --ready "${address[@]}" >/dev/null 2>&1; then break; fi
    kill -0 "$server" || fail "it does not run: $(cat "$folder/said")"
    [ "$attempt" != 600 ] || fail "it is never ready: $(cat "$folder/said")"
    sleep 0.1
done
kill "$server"
wait "$server" || fail "it did not end well: $(cat "$folder/said")"
trap - EXIT

# An upgrade keeps what the operator has changed.
inside sed -i 's/^retention = .*/retention = "1d"/' /etc/tidings/tidings.toml
inside env DEBIAN_FRONTEND=noninteractive dpkg --force-confold --install /tidings.deb
inside grep -q '^retention = "1d"' /etc/tidings/tidings.toml || fail "the configuration was overwritten"
[ "$(inside stat -c %a /etc/tidings/tidings.toml)" = 640 ] || fail "the configuration is open after an upgrade"

inside dpkg --purge tidings
if inside test -e /usr/bin/tidings || inside test -e /etc/tidings/tidings.toml; then fail "a purge leaves files"; fi
inside test -e /etc/tidings/secret || fail "a purge took the operator's secret"
inside test -e /var/lib/tidings/log/FORMAT || fail "a purge took the log"
echo "all as it should be"
