#!/usr/bin/env bash
# contain.sh IMAGE FILES USER GROUP FOLDER DESCRIPTORS MOUNT… -- COMMAND… : what an engine does between namespaces and
# program. It runs in a mount and process namespace of its own, and becomes the program.
#
# IMAGE is the image's root, `/` for programs of this machine; FILES has hosts and resolv.conf. A MOUNT is SOURCE:TARGET
# or SOURCE:TARGET:ro, with the source `tmpfs` for memory. Everything else is read-only.
set -euo pipefail
image=$1 files=$2 user=$3 group=$4 folder=$5 descriptors=$6
shift 6

mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
chmod 755 /mnt /mnt/upper
root=/mnt/root
mount -t overlay overlay -o "lowerdir=$image,upperdir=/mnt/upper,workdir=/mnt/work" "$root"

mkdir -p "$root/proc" "$root/dev" "$root/etc"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 none "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done

# mount_file SOURCE TARGET : a link there would lead out of the root.
mount_file() {
    mkdir -p "$(dirname "$root$2")"
    rm -f "$root$2"
    touch "$root$2"
    mount --bind "$1" "$root$2"
}
mount_file "$files/hosts" /etc/hosts
mount_file "$files/resolv.conf" /etc/resolv.conf

while [ "$1" != -- ]; do
    IFS=: read -r source target how <<<"$1"
    if [ "$source" = tmpfs ]; then
        mkdir -p "$root$target"
        mount -t tmpfs -o mode=1777 none "$root$target"
    elif [ -d "$source" ]; then
        mkdir -p "$root$target"
        mount --bind "$source" "$root$target"
    else
        mount_file "$source" "$target"
    fi
    if [ "$how" = ro ]; then mount -o remount,bind,ro "$root$target"; fi
    shift
done
shift
mount -o remount,bind,ro "$root"

prlimit --pid $$ --nofile="$descriptors:$descriptors"
if [ "$user" = 0 ]; then
    # Root without rights has them taken in the root, whose programs are this machine's.
    exec chroot "$root" setpriv --no-new-privs --inh-caps=-all --bounding-set=-all -- "$@"
fi
exec setpriv --no-new-privs --inh-caps=-all unshare --root="$root" --wd="$folder" --setgid "$group" --setuid "$user" -- "$@"
