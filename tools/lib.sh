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
    say "tuned kernel (a quarter of an hour on 2 cores, the first time)"
    DRUPE_E2E_TUNED=$(guest-images/kernel/build)
  fi
  say "Debian root disk"
  DRUPE_E2E_ROOTFS=$(guest-images/rootfs/build)
  export DRUPE_E2E_STOCK DRUPE_E2E_TUNED DRUPE_E2E_ROOTFS
}

# Runs a command as root where there is a KVM that can run Linux, and says where.
# LAB_ARGS go to the lab.
on_kvm() {
  if [ "$(id -u)" = 0 ] && target/release/drupe doctor --check kvm >/dev/null 2>&1; then
    say "running on this host's KVM"
    "$@"
  else
    say "running in the KVM lab: $(target/release/drupe doctor --check kvm 2>&1 | head -n 1)"
    # shellcheck disable=SC2086
    tests/lab/kvm-lab ${LAB_ARGS:-} -- "$@"
  fi
}
