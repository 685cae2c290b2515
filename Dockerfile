# syntax=docker/dockerfile:1.7

# One image with both programs: `api serve` (the default) and `worker run`.
# Build: docker build --build-arg VERSION=… --build-arg REVISION=$(git rev-parse HEAD) --tag tenantry .

ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
# Set this, for example to the time of the commit, to make two builds of one commit identical.
ARG SOURCE_DATE_EPOCH
ENV CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never
COPY . .
# The caches outlive the layer: a changed source file recompiles its crate and dependents, but no dependency.
RUN --mount=type=cache,id=tenantry-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=tenantry-target,target=/src/target,sharing=locked \
    cargo build --locked --release --package api --package worker --bins \
    && install -D --mode=0755 --target-directory=/out target/release/api target/release/worker \
    && find /out -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +

FROM debian:bookworm-slim AS runtime
# No RUN here, so that the image does not depend on the time or the network of the build.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /usr/local/bin/

ARG VERSION=0.0.0-dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Tenantry" \
      org.opencontainers.image.description="Multi-tenant SaaS platform: HTTP API and job worker" \
      org.opencontainers.image.source="https://github.com/tenantry/tenantry" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The default is to listen on loopback, which is not reachable from outside the container. 4001 and 4002 are for
# operators: never publish them.
ENV TENANTRY__API__LISTEN=0.0.0.0:4000 \
    TENANTRY__API__INTERNAL_LISTEN=0.0.0.0:4001 \
    TENANTRY__WORKER__INTERNAL_LISTEN=0.0.0.0:4002 \
    TENANTRY__APP__REVISION="${REVISION}"
EXPOSE 4000 4001 4002

# The image has no account with this id, and nothing in it is writable by it, so it works with `--read-only`.
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM

# Checks whichever program is running, through its internal listener. With `--init`, its name is not the first
# word of process 1's command line.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/bin/sh", "-c", "case \" $(tr '\\0' ' ' </proc/1/cmdline)\" in *[\\ /]worker\\ *) exec worker health ;; *) exec api health ;; esac"]

CMD ["api", "serve"]
