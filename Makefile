# What cargo does not do: packages, guests' kernels and root file systems, and
# the KVM lab. `make help` lists the targets.

.DEFAULT_GOAL := help
.PHONY: help demo test bench fuzz soak supply sbom release reproducible deps lab kernel rootfs

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: deps ## boot a Debian guest with a disk and a network, and run a Debian image
	@tools/demo

test: deps ## all that has to pass: format, lints, unit tests, real guests
	@tools/test

bench: deps ## measure the start, the boot against QEMU's, and the size
	@tools/bench

fuzz: deps ## fuzz each target for a minute
	@tools/fuzz 60

soak: deps ## 500 sandboxes one after another, and 30 at a time: nothing may be left
	@tools/soak

supply: ## check licences, versions, sources and yanked packages of what drupe needs
	@tools/supply --refresh

sbom: ## write the software bill of materials: target/drupe.cdx.json
	@mkdir -p target
	@tools/sbom target/drupe.cdx.json

release: deps ## build the program as it is given to others, in target/dist
	@tools/release

reproducible: deps ## build the release twice in different places, and compare
	@tools/reproducible

deps: ## install the Debian packages that the other targets need
	@tools/deps

lab: deps ## run CMD in the KVM lab: make lab CMD='ls -l /dev/kvm'
	@[ -n "$$CMD" ] || { echo "make lab: say what to run: make lab CMD='ls -l /dev/kvm'" >&2; exit 2; }
	@tests/lab/kvm-lab $(LAB_FLAGS) -- sh -c "$$CMD"
export CMD

kernel: deps ## fetch Debian's kernel and build the tuned one, for guests
	@guest-images/kernel/fetch
	@guest-images/kernel/build

rootfs: deps ## build the guests' root file system
	@guest-images/rootfs/build
