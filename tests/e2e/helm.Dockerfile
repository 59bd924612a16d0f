# Helm for clusters that cannot pull alpine/helm. The program `helm` must be in the build context; it needs no libraries.
FROM python:3.11-slim-bookworm
COPY helm /usr/local/bin/helm
USER 65534:65534
ENTRYPOINT ["helm"]
