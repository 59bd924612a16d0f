# A Pushgateway for clusters that cannot pull prom/pushgateway: Debian's, with the same flags and port.
FROM python:3.11-slim-bookworm
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends prometheus-pushgateway >/dev/null \
    && rm -rf /var/lib/apt/lists/*
USER 65534:65534
EXPOSE 9091
ENTRYPOINT ["prometheus-pushgateway"]
# Debian's build keeps what it got in /var/lib unless it is told not to; prom/pushgateway does not by default.
CMD ["--persistence.file="]
