# syntax=docker/dockerfile:1
# Build: docker build -t trainyard .      The binary is static, so it also runs inside any user's image as the agent.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target x86_64-unknown-linux-gnu --bin trainyard \
    && cp target/x86_64-unknown-linux-gnu/release/trainyard /trainyard

# Pin by digest when you build for production.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends git ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /trainyard /usr/local/bin/trainyard
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/trainyard"]
CMD ["serve", "--config", "/etc/trainyard/trainyard.toml"]
