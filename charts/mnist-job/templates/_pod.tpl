{{/* The parts of pods. Everything that Pod Security `restricted` asks for stands here, once. */}}

{{- define "mnist-job.podSecurityContext" -}}
runAsNonRoot: true
{{- range $name, $id := .Values.podSecurityContext }}
{{- if not (kindIs "invalid" $id) }}
{{ $name }}: {{ $id }}
{{- end }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "mnist-job.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Labels and annotations of a pod. (list . "head") */}}
{{- define "mnist-job.podMetadata" -}}
{{- $values := (index . 0).Values -}}
labels:
  {{- include "mnist-job.selectorLabels" . | nindent 2 }}
  {{- with merge dict $values.podLabels $values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What all pods have in common. Without service links: they would set variables for each Service that exists. */}}
{{- define "mnist-job.podDefaults" -}}
enableServiceLinks: false
serviceAccountName: {{ include "mnist-job.serviceAccountName" . }}
securityContext:
  {{- include "mnist-job.podSecurityContext" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- if and .Values.scheduling.priorityClass (has .Values.scheduling.provider (list "none" "yunikorn")) }}
priorityClassName: {{ .Values.scheduling.priorityClass }}
{{- end }}
{{- end }}

{{/* The only writable place of a pod beside its storage. */}}
{{- define "mnist-job.tmpVolume" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- end }}

{{/*
The template of a Ray pod. (list . "worker" $group): `group` has its resources and what places it on a node.
No app.kubernetes.io/name: KubeRay sets its own, by which the head's Service selects.
*/}}
{{- define "mnist-job.rayPod" -}}
{{- $root := index . 0 }}
{{- $component := index . 1 }}
{{- $group := index . 2 }}
{{- $claim := include "mnist-job.claimName" $root }}
{{- $resources := deepCopy $group.resources }}
{{- if $group.gpus }}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" $group.gpus) ($resources.limits | default dict)) }}
{{- end -}}
metadata:
  {{- include "mnist-job.podMetadata" (list $root $component) | nindent 2 }}
spec:
  {{- include "mnist-job.podDefaults" $root | nindent 2 }}
  {{- /* Only the driver talks to the API server: it reports the result, from the head. */}}
  automountServiceAccountToken: {{ and (eq $component "head") (eq $root.Values.mode "job") }}
  # KubeRay starts Ray from a shell, which passes no SIGTERM on: to wait the usual 30 s would change nothing.
  terminationGracePeriodSeconds: 10
  {{- with $group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "mnist-job.affinity" (list $root $group.affinity) | fromYaml }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $group.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  containers:
    - name: ray-{{ $component }}
      image: {{ include "mnist-job.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- include "mnist-job.containerSecurityContext" $root | nindent 8 }}
      resources:
        {{- toYaml $resources | nindent 8 }}
      ports:
        {{- if eq $component "head" }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        - {name: outcome, containerPort: {{ $root.Values.metrics.port }}}
        - {name: as-metrics, containerPort: 44217}
        - {name: dash-metrics, containerPort: 44227}
        {{- end }}
        - {name: metrics, containerPort: 8080}
      # KubeRay's own asks after 10 s and then every 5 s; the job begins when all pods are ready.
      readinessProbe:
        httpGet: {path: /api/healthz, port: 52365}
        initialDelaySeconds: 2
        periodSeconds: 1
        timeoutSeconds: 5
        failureThreshold: 50
      env:
        - {name: HOME, value: /tmp}
        - {name: RAY_USAGE_STATS_ENABLED, value: "0"}
        {{- if $claim }}
        - {name: KERAS_HOME, value: /storage/keras}
        {{- end }}
        {{- with $root.Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.storage.credentialsSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if eq $component "head" }}
        - {name: settings, mountPath: /etc/mnist-job, readOnly: true}
        {{- end }}
        {{- if $claim }}
        - {name: storage, mountPath: /storage}
        {{- end }}
  volumes:
    {{- include "mnist-job.tmpVolume" $root | nindent 4 }}
    {{- if eq $component "head" }}
    - name: settings
      configMap:
        name: {{ include "mnist-job.clusterName" $root }}
    {{- end }}
    {{- if $claim }}
    - name: storage
      persistentVolumeClaim:
        claimName: {{ $claim }}
    {{- end }}
{{- end }}

{{/* A group's affinity, and where the volume takes only one node, the rule that all Ray pods share it. */}}
{{- define "mnist-job.affinity" -}}
{{- $affinity := index . 1 | default dict | deepCopy }}
{{- if include "mnist-job.oneNode" (index . 0) }}
{{- $together := dict
  "labelSelector" (include "mnist-job.raySelector" (index . 0) | fromYaml)
  "topologyKey" "kubernetes.io/hostname"
}}
{{- $pods := $affinity.podAffinity | default dict }}
{{- $required := append ($pods.requiredDuringSchedulingIgnoredDuringExecution | default list) $together }}
{{- $_ := set $pods "requiredDuringSchedulingIgnoredDuringExecution" $required }}
{{- $_ := set $affinity "podAffinity" $pods }}
{{- end }}
{{- toYaml $affinity }}
{{- end }}
