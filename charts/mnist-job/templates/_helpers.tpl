{{/* Names, labels, and values that are computed from several others. */}}

{{/*
The name of the chart's objects: the release's name, if it is a DNS-1035 label of at most 38 characters. The name of a
RayJob has at most 47 characters, of which 9 are the hash of its run.
*/}}
{{- define "mnist-job.fullname" -}}
{{- $name := .Release.Name | replace "." "-" }}
{{- if regexMatch "^[0-9]" $name }}
{{- $name = printf "job-%s" $name }}
{{- end }}
{{- if or (ne $name .Release.Name) (gt (len $name) 38) }}
{{- $name = printf "%s-%s" (regexReplaceAll "-+$" (trunc 29 $name) "") (sha256sum .Release.Name | trunc 8) }}
{{- end }}
{{- $name }}
{{- end }}

{{/*
The name of the RayJob. It has a hash of the values that affect the result: the same values never run twice, and a
change of other values (a label, a limit, a dashboard) does not train again. `resume` makes another RayJob with the same
folder.
*/}}
{{- define "mnist-job.runName" -}}
{{- $folder := include "mnist-job.runFolder" . }}
{{- if .Values.resume }}
{{- printf "%s-%s" (include "mnist-job.fullname" .) (printf "%s resume %s" $folder .Values.resume | sha256sum | trunc 8) }}
{{- else }}
{{- $folder }}
{{- end }}
{{- end }}

{{/* The folder of the run, in the folder of all runs. */}}
{{- define "mnist-job.runFolder" -}}
{{- $settings := include "mnist-job.settings" . | fromYaml }}
{{- $run := dict "image" (include "mnist-job.image" .) "rerun" .Values.rerun }}
{{- range list "min_accuracy" "min_recall" }}
{{- $_ := set $run . (get $settings .) }}
{{- end }}
{{- range .Files.Get "files/affects-result.json" | fromJsonArray }}
{{- $_ := set $run . (get $settings .) }}
{{- end }}
{{- with .Values.code }}
{{- $_ := set $run "code" . }}
{{- end }}
{{- printf "%s-%s" (include "mnist-job.fullname" .) (toJson $run | sha256sum | trunc 8) }}
{{- end }}

{{/* The name of the Ray cluster's objects: that of the run or, in mode `cluster`, of the release. */}}
{{- define "mnist-job.clusterName" -}}
{{- if eq .Values.mode "job" }}{{ include "mnist-job.runName" . }}{{ else }}{{ include "mnist-job.fullname" . }}{{ end }}
{{- end }}

{{- define "mnist-job.resultName" -}}
{{ include "mnist-job.fullname" . }}-result
{{- end }}

{{- define "mnist-job.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "mnist-job.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "mnist-job.image" -}}
{{- with .Values.image.digest }}
{{- printf "%s@%s" $.Values.image.repository . }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "mnist-job.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels that select the pods of a component. (list . "head") */}}
{{- define "mnist-job.selectorLabels" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Selects the Ray pods of this release, of all its runs. */}}
{{- define "mnist-job.raySelector" -}}
matchLabels:
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [head, worker]
{{- end }}

{{- define "mnist-job.helm3" -}}
{{- if semverCompare "<4.0.0-0" .Capabilities.HelmVersion.Version }}true{{ end }}
{{- end }}

{{/* The claim that the pods mount; empty with an object store. */}}
{{- define "mnist-job.claimName" -}}
{{- $claim := .Values.storage.persistentVolumeClaim }}
{{- if .Values.storage.uri }}
{{- else if $claim.existingClaim }}
{{- $claim.existingClaim }}
{{- else if $claim.create }}
{{- include "mnist-job.fullname" . }}
{{- end }}
{{- end }}

{{/* "true" if the volume can be mounted on only one node: all pods must be on that node. */}}
{{- define "mnist-job.oneNode" -}}
{{- if include "mnist-job.claimName" . }}
{{- if not (has "ReadWriteMany" .Values.storage.persistentVolumeClaim.accessModes) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "mnist-job.pushgatewayUrl" -}}
{{- if .Values.metrics.pushgateway.deploy.enabled }}
{{- printf "http://%s-pushgateway:9091" (include "mnist-job.fullname" .) }}
{{- else }}
{{- .Values.metrics.pushgateway.url }}
{{- end }}
{{- end }}

{{/* The number of training processes in a pod of the group. */}}
{{- define "mnist-job.processes" -}}
{{ max 1 (int .gpus) }}
{{- end }}

{{/* The least number of pods of a group, which it starts with, and the greatest number. */}}
{{- define "mnist-job.minReplicas" -}}
{{ kindIs "invalid" .minReplicas | ternary .replicas .minReplicas }}
{{- end }}
{{- define "mnist-job.maxReplicas" -}}
{{ kindIs "invalid" .maxReplicas | ternary .replicas .maxReplicas }}
{{- end }}

{{/* "true" if a group may grow. Then KubeRay runs Ray's autoscaler in the head's pod. */}}
{{- define "mnist-job.autoscaling" -}}
{{- range .Values.workerGroups }}
{{- if ne (include "mnist-job.minReplicas" .) (include "mnist-job.maxReplicas" .) }}true{{ end }}
{{- end }}
{{- end }}

{{/* "true" if the head uses the API server: to report the result of a job, or to request pods for the autoscaler. */}}
{{- define "mnist-job.asksApiServer" -}}
{{- if or (eq .Values.mode "job") (include "mnist-job.autoscaling" .) }}true{{ end }}
{{- end }}

{{/* The settings file that the program reads: `settings`, and the settings that are computed from other values. */}}
{{- define "mnist-job.settings" -}}
{{- $least := 0 }}
{{- $most := 0 }}
{{- $gpus := 0 }}
{{- range .Values.workerGroups }}
{{- $processes := include "mnist-job.processes" . | int }}
{{- $least = add $least (mul (include "mnist-job.minReplicas" . | int) $processes) }}
{{- $most = add $most (mul (include "mnist-job.maxReplicas" . | int) $processes) }}
{{- $gpus = add $gpus .gpus }}
{{- end }}
{{- $least = max 1 $least }}
{{- $settings := dict
  "name" .Release.Name
  "workers" (eq $least $most | ternary $most (printf "%d:%d" $least $most))
  "use_gpu" (gt $gpus 0)
  "exporter_port" (int .Values.metrics.port)
}}
{{- with include "mnist-job.pushgatewayUrl" . }}
{{- $_ := set $settings "pushgateway_url" . }}
{{- end }}
{{- if .Values.code }}
{{- $_ := set $settings "code" "/etc/mnist-job/code" }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if not (kindIs "invalid" $value) }}
{{- $_ := set $settings $name $value }}
{{- end }}
{{- end }}
{{- toYaml $settings }}
{{- end }}
