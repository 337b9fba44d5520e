# What the project's scripts share. Source it from the top of the tree.

say() { echo "==> $*" >&2; }
die() {
  echo "error: $*" >&2
  exit 1
}

# The kernels and the root disk for tests and the demo; names them in the
# environment.
prepare_guests() {
  say "stock kernel"
  DRUPE_E2E_STOCK=$(guest-images/kernel/fetch)
  if [ "${1:-}" != stock-only ]; then
    say "tuned kernel (some ten minutes on 2 cores, the first time)"
    DRUPE_E2E_TUNED=$(guest-images/kernel/build)
  fi
  say "Debian root disk"
  DRUPE_E2E_ROOTFS=$(guest-images/rootfs/build)
  export DRUPE_E2E_STOCK DRUPE_E2E_TUNED DRUPE_E2E_ROOTFS
}

# The images of the tests; names them in the environment.
prepare_images() {
  say "images of Debian's packages (some minutes, the first time)"
  DRUPE_E2E_WEB=$(guest-images/image/build web)
  DRUPE_E2E_POSTGRES=$(guest-images/image/build postgres)
  DRUPE_E2E_CONTAINERS=$(guest-images/image/build containers)
  export DRUPE_E2E_WEB DRUPE_E2E_POSTGRES DRUPE_E2E_CONTAINERS
}

# True where this host's KVM can run Linux; says where things will run.
fit_kvm() {
  local why
  if why=$(target/release/drupe doctor --check kvm 2>&1); then
    say "running on this host's KVM"
    return
  fi
  why=${why%%$'\n'*}
  [ "$(id -u)" = 0 ] || die "$why; the KVM lab needs root: sudo env PATH=\"\$PATH\" make"
  say "running in the KVM lab: $why"
  return 1
}

# Before anything long: the lab shares / with its guest, which takes root.
need_kvm_or_root() {
  [ "$(id -u)" = 0 ] || [ -w /dev/kvm ] ||
    die "neither root nor allowed to use /dev/kvm: join its group (sudo usermod -aG kvm $USER, and log in again), or: sudo env PATH=\"\$PATH\" make ${1:-}"
}

# Runs a command where network interfaces can be made: as root, or as root of a
# namespace of its own, in which this user's groups still open /dev/kvm.
with_net() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    unshare --map-root-user --net -- sh -c 'ip link set lo up; exec "$@"' - "$@"
  fi
}

# Runs a command where there is a KVM that can run Linux. LAB_ARGS go to the lab.
on_kvm() {
  if fit_kvm; then
    with_net "$@"
  else
    # shellcheck disable=SC2086
    tests/lab/kvm-lab ${LAB_ARGS:-} -- "$@"
  fi
}
