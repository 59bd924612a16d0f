# Helm for clusters that cannot pull alpine/helm: the program `helm` of the build context, which needs no libraries.
FROM python:3.11-slim-bookworm
COPY helm /usr/local/bin/helm
USER 65534:65534
ENTRYPOINT ["helm"]
