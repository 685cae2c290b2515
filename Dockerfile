# syntax=docker/dockerfile:1.7

# One image with both processes: `api serve` (the default) and `worker run`.
# Build: docker build --build-arg VERSION=… --build-arg REVISION=$(git rev-parse HEAD) --tag tenantry .

ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
# Set it (for instance to the commit's time) and two builds of one commit are alike.
ARG SOURCE_DATE_EPOCH
ENV CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never
COPY . .
# The caches outlive the layer: a changed source file compiles its crate and those above it, never a dependency again.
RUN --mount=type=cache,id=tenantry-registry,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=tenantry-target,target=/src/target,sharing=locked \
    cargo build --locked --release --package api --package worker --bins \
    && install -D --mode=0755 --target-directory=/out target/release/api target/release/worker \
    && find /out -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH:-0}" {} +

FROM debian:bookworm-slim AS runtime
# No RUN here, so nothing of the build's time or network gets in.
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

# By default they listen on loopback only, which nobody outside the container could reach. 4001 and 4002 are for operators: never publish them.
ENV TENANTRY__API__LISTEN=0.0.0.0:4000 \
    TENANTRY__API__INTERNAL_LISTEN=0.0.0.0:4001 \
    TENANTRY__WORKER__INTERNAL_LISTEN=0.0.0.0:4002
EXPOSE 4000 4001 4002

# No account of that number exists in the image and nothing in it is writable for it: `--read-only` works as it is.
USER 10001:10001
WORKDIR /
STOPSIGNAL SIGTERM

# Asks the process that runs, api or worker, at its own internal listener; with `--init` it is not the first word of process 1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["/bin/sh", "-c", "case \" $(tr '\\0' ' ' </proc/1/cmdline)\" in *[\\ /]worker\\ *) exec worker health ;; *) exec api health ;; esac"]

CMD ["api", "serve"]
