{{/* Connections of head and workers to hosts outside the cluster, and their proxy. */}}

{{/* The data sets that have a name, as in job/mnist_job/config/training.py. All but digits are downloaded. */}}
{{- define "mnist-job.dataSets" -}}
{{- list "mnist" "fashion_mnist" "cifar10" "cifar100" "digits" | toJson }}
{{- end }}

{{/* Ports of the hosts of the data and the results, and of the proxies, if they are known from the values. */}}
{{- define "mnist-job.remotePorts" -}}
{{- $ports := list }}
{{- range list .Values.settings.data .Values.storage.uri }}
{{- $scheme := regexFind "^[a-z][a-z0-9+]*://" . | trimSuffix "://" }}
{{- if has . (without (include "mnist-job.dataSets" $ | fromJsonArray) "digits") }}
{{- $ports = append $ports 443 }}
{{- else if has $scheme (list "http" "https") }}
{{- $ports = append $ports (include "mnist-job.portOf" (list . $scheme) | int) }}
{{- else if has $scheme (list "hdfs" "viewfs") }}
{{- $ports = append $ports (regexFind "[0-9]+$" (include "mnist-job.hostOf" .) | default 8020 | int) }}
{{- else if and $scheme (ne $scheme "file") }}
{{- /* An object store. As in pyarrow, the query may contain another endpoint than the vendor's. */}}
{{- $endpoint := regexFind "[?&]endpoint_override=[^&]*" . | splitList "=" | last }}
{{- $endpoint = regexReplaceAll "(?i)%3A" (regexReplaceAll "(?i)%2F" $endpoint "/") ":" }}
{{- $scheme = regexFind "[?&]scheme=[^&]*" . | splitList "=" | last | default "https" }}
{{- $ports = append $ports (include "mnist-job.portOf" (list $endpoint $scheme) | int) }}
{{- end }}
{{- end }}
{{- range .Values.env }}
{{- if and .value (regexMatch "^(?i:(https?|all)_proxy|aws_endpoint_url(_s3)?)$" .name) }}
{{- $ports = append $ports (include "mnist-job.portOf" (list .value "http") | int) }}
{{- end }}
{{- end }}
{{- $ports | uniq | sortAlpha | toJson }}
{{- end }}

{{/* The HOST:PORT of a URL, or of a text that is HOST:PORT itself. */}}
{{- define "mnist-job.hostOf" -}}
{{- . | splitList "://" | last | splitList "/" | first | splitList "?" | first }}
{{- end }}

{{/* The port of a URL. (list $url "https"): the default scheme. */}}
{{- define "mnist-job.portOf" -}}
{{- $url := index . 0 }}
{{- $scheme := regexFind "^[a-z0-9]+://" $url | trimSuffix "://" | default (index . 1) }}
{{- $default := hasPrefix "socks" $scheme | ternary 1080 (eq $scheme "http" | ternary 80 443) }}
{{- regexFind ":[0-9]+$" (include "mnist-job.hostOf" $url) | trimPrefix ":" | default (toString $default) }}
{{- end }}

{{/*
The environment variables of head and workers: those of the user. If there is a proxy, add the cluster's own hosts to
`no_proxy`, because the API server and the Pushgateway cannot be reached through it. If a variable is set in lower case
and in upper case, programs prefer the one in lower case.
*/}}
{{- define "mnist-job.env" -}}
{{- $env := list }}
{{- $proxied := false }}
{{- $except := list }}
{{- $ours := list "localhost" "127.0.0.1" ".svc" ".cluster.local" "$(KUBERNETES_SERVICE_HOST)" }}
{{- if .Values.metrics.pushgateway.deploy.enabled }}
{{- $ours = append $ours (printf "%s-pushgateway" (include "mnist-job.fullname" .)) }}
{{- end }}
{{- range .Values.env }}
{{- if regexMatch "^(?i:(https?|all)_proxy)$" .name }}{{ $proxied = true }}{{ end }}
{{- if eq .name "NO_PROXY" }}{{ $except = append $except "$(NO_PROXY)" }}{{ end }}
{{- if eq .name "no_proxy" }}
{{- /* A variable's value may refer to the variables before it. */}}
{{- $except = append $except "$(USERS_NO_PROXY)" }}
{{- $env = append $env (merge (dict "name" "USERS_NO_PROXY") .) }}
{{- else }}
{{- $env = append $env . }}
{{- end }}
{{- end }}
{{- if $proxied }}
{{- toYaml (append $env (dict "name" "no_proxy" "value" (concat $except $ours | join ","))) }}
{{- else }}
{{- toYaml .Values.env }}
{{- end }}
{{- end }}

{{/* Ports that the NetworkPolicies may block, because the values do not contain them: a list of descriptions. */}}
{{- define "mnist-job.unknownPorts" -}}
{{- $unknown := list }}
{{- if .Values.networkPolicy.enabled }}
{{- range .Values.env }}
{{- if and .valueFrom (regexMatch "^(?i:(https?|all)_proxy|aws_endpoint_url(_s3)?)$" .name) }}
{{- $unknown = append $unknown (printf "the port of %s, which comes from a Secret or ConfigMap" .name) }}
{{- end }}
{{- end }}
{{- with .Values.storage.credentialsSecret }}
{{- $unknown = append $unknown (printf "a proxy's or an endpoint's port, if Secret %s names one" .) }}
{{- end }}
{{- if regexMatch "(^| )(hdfs|viewfs)://" (printf "%s %s" .Values.settings.data .Values.storage.uri) }}
{{- $unknown = append $unknown "the ports of HDFS's data nodes (9866)" }}
{{- end }}
{{- end }}
{{- toJson $unknown }}
{{- end }}
