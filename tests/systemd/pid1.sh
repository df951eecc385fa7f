#!/bin/sh
# Become the PID 1 of a box: an overlay of LAYERS with its own /proc, /sys, /dev, /run and cgroup tree.
# Called by box.py in fresh namespaces: pid1.sh FOLDER LAYERS UPPER WORK [SOURCE:TARGET[:ro]...]
set -eu
folder=$1 layers=$2 upper=$3 work=$4
shift 4
mount --make-rprivate /
if [ "$upper" = - ]; then # nothing of this box outlives it
    mount -t tmpfs -o mode=755 box "$folder"
    mkdir "$folder/upper" "$folder/work" "$folder/root"
    upper=$folder/upper work=$folder/work
else
    mkdir -p "$folder/root" "$upper" "$work"
fi
root=$folder/root
mount -t overlay -o "lowerdir=$layers,upperdir=$upper,workdir=$work" box "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s /proc/self/fd "$root/dev/fd"
for share in "$@"; do
    source=${share%%:*} rest=${share#*:}
    target=$root${rest%%:*}
    if [ -d "$source" ]; then mkdir -p "$target"; else mkdir -p "${target%/*}" && touch "$target"; fi
    mount --bind "$source" "$target"
    case $rest in *:ro) mount -o remount,bind,ro "$target" ;; esac
done
mkdir "$root/run/outside"
cd "$root"
# Not chroot: under it LoadCredential= gives an empty folder, and says nothing.
pivot_root . run/outside
umount -l /run/outside
rmdir /run/outside
mount --make-rshared /
exec env -i container=box PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=journal --show-status=0 </dev/null >/dev/null 2>&1
