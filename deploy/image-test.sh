#!/bin/sh
# Build the image, start it locked down, ask it for a score, stop it.  Exit 0 when all of it holds.
#
#   deploy/image-test.sh [cpu|gpu]        default cpu
#
# Needs podman and buildah; nothing here pushes, and only the base image is pulled.
#   BASE=IMAGE         base image (default python:3.11-slim-bookworm)
#   STAND_IN=1         do not pull: make a stand-in base image with debootstrap (root needed);
#                      also done when pulling fails
#   BUILD_FLAGS="..."  further words for `buildah bud`, e.g. a volume with a company's CA file
#   MODELS=DIR         bundles mounted over the image's own (read-only)
#   KEEP=1             leave the image behind
set -eu

variant=${1:-cpu}
base=${BASE:-python:3.11-slim-bookworm}
image=oodscore:test-$variant
name=oodscore-image-test-$$
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)

say() { printf '%s\n' "image-test: $*"; }
fail() { say "FAILED: $*"; exit 1; }
missing() { say "cannot run here: $1 is missing ($2)"; exit 2; }

clean_up() {
    status=$?
    if [ "$status" -ne 0 ] && podman container exists "$name" 2>/dev/null; then
        podman logs "$name" 2>&1 | tail -n 40
    fi
    podman rm -f "$name" >/dev/null 2>&1 || true
    [ -n "${KEEP:-}" ] || podman rmi -f "$image" >/dev/null 2>&1 || true
    rm -rf "$work"
    exit "$status"
}

for tool in podman buildah; do
    command -v "$tool" >/dev/null || missing "$tool" "on Debian: apt-get install podman buildah"
done
trap clean_up EXIT
trap 'exit 130' INT TERM

# Without systemd there is nobody to hand out cgroups, and inherited limits may be out of reach.
if [ ! -d /run/systemd/system ] && [ -z "${CONTAINERS_CONF:-}" ]; then
    {
        echo '[containers]'
        echo 'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]'
        echo '[engine]'
        echo 'cgroup_manager = "cgroupfs"'
        echo 'events_logger = "file"'
        if command -v runc >/dev/null; then echo 'runtime = "runc"'; fi
    } > "$work/containers.conf"
    export CONTAINERS_CONF="$work/containers.conf"
fi

stand_in_base() {
    command -v debootstrap >/dev/null || missing debootstrap "the base image cannot be pulled either"
    [ "$(id -u)" = 0 ] || missing "root" "debootstrap needs it"
    say "making a stand-in for $base with debootstrap"
    # shellcheck disable=SC2016  # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep '/debian/*$' | head -n 1)
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
        bookworm "$work/rootfs" ${mirror:+"$mirror"} > "$work/debootstrap.log" 2>&1 \
        || { tail -n 5 "$work/debootstrap.log"; fail "debootstrap"; }
    ln -s /usr/bin/python3 "$work/rootfs/usr/local/bin/python"
    ln -s /usr/bin/pip3 "$work/rootfs/usr/local/bin/pip"
    rm -rf "$work"/rootfs/usr/lib/python3*/EXTERNALLY-MANAGED "$work"/rootfs/var/cache/apt \
        "$work"/rootfs/var/lib/apt/lists
    tar -C "$work/rootfs" --exclude='./proc/*' --exclude='./sys/*' -c . \
        | podman import --quiet - "$base" >/dev/null
    rm -rf "$work/rootfs"
}

if ! podman image exists "$base"; then
    if [ -n "${STAND_IN:-}" ] || ! timeout 300 podman pull --quiet "$base" >/dev/null 2>&1; then
        stand_in_base
    fi
fi

say "building the $variant variant"
started=$(date +%s)
# shellcheck disable=SC2086  # BUILD_FLAGS is a list of words
buildah bud --isolation chroot --pull-never --format docker --layers \
    --build-arg "VARIANT=$variant" --build-arg "PYTHON_IMAGE=$base" \
    --build-arg "REVISION=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)" \
    ${BUILD_FLAGS:-} --tag "$image" "$root" > "$work/build.log" 2>&1 \
    || { tail -n 30 "$work/build.log"; fail "the build"; }
say "built in $(($(date +%s) - started)) s"

bytes() { podman image inspect --format '{{.Size}}' "$1"; }
say "size: $(($(bytes "$image") / 1000000)) MB," \
    "$((($(bytes "$image") - $(bytes "$base")) / 1000000)) MB of it on top of the base"
[ "$(podman image inspect --format '{{.Config.User}}' "$image")" = 10001:10001 ] \
    || fail "the image's user"

port=${PORT:-18080}
# The image's own health check is run by hand below: timers would need systemd.
podman run --detach --name "$name" --network host --pull never --health-interval disable \
    --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --memory 1g --pids-limit 256 \
    --env OODSCORE_HOST=127.0.0.1 --env "OODSCORE_PORT=$port" \
    ${MODELS:+--volume "$(cd "$MODELS" && pwd):/models:ro"} "$image" >/dev/null

started=$(date +%s)
until podman healthcheck run "$name" >/dev/null 2>&1; do
    [ "$(podman container inspect --format '{{.State.Running}}' "$name")" = true ] \
        || fail "the service ended while starting"
    [ $(($(date +%s) - started)) -lt 60 ] || fail "not ready after 60 s"
    sleep 0.2
done
say "healthy after about $(($(date +%s) - started)) s"

[ "$(podman exec "$name" id -u)" = 10001 ] || fail "the service does not run as 10001"
podman exec "$name" sh -c "grep -q '^[^ ]* / [^ ]* ro[, ]' /proc/mounts" || fail "the root is writable"
podman exec "$name" grep -q '^CapEff:.*0000000000000000$' /proc/1/status || fail "capabilities remain"
podman exec "$name" grep -q '^NoNewPrivs:.*1$' /proc/1/status || fail "new privileges are allowed"
podman exec "$name" python -c '
import importlib.util, sys
found = [m for m in ("torch", "training", "onnx", "pytest") if importlib.util.find_spec(m)]
sys.exit(f"in the image: {found}" if found else 0)' || fail "more than the service is in the image"
podman exec --interactive "$name" python - "http://127.0.0.1:$port" < "$root/deploy/smoke.py" \
    || fail "the smoke test"

started=$(date +%s)
podman stop --time 40 "$name" >/dev/null
code=$(podman container inspect --format '{{.State.ExitCode}}' "$name")
[ "$code" = 0 ] || fail "exit code $code after SIGTERM"
say "stopped cleanly on SIGTERM after about $(($(date +%s) - started)) s"
say "all good"
