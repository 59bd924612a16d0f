# Debian's Pushgateway, for clusters that cannot pull prom/pushgateway. It has the same flags and the same port.
FROM python:3.11-slim-bookworm
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends prometheus-pushgateway >/dev/null \
    && rm -rf /var/lib/apt/lists/*
USER 65534:65534
EXPOSE 9091
ENTRYPOINT ["prometheus-pushgateway"]
# By default, Debian's build stores its metrics in /var/lib, and prom/pushgateway does not.
CMD ["--persistence.file="]
