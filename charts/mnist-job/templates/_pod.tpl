{{/* The parts of pods, with everything that Pod Security `restricted` requires. */}}

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

{{/* The common part of all pods. Service links are off: they would set variables for each Service of the namespace. */}}
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

{{/* The only writable folder of a pod, except for its storage. */}}
{{- define "mnist-job.tmpVolume" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSizeLimit }}
{{- end }}

{{/*
The resources of a container with that volume, plus a request and a limit of ephemeral-storage if the values set none.
(list . $resources "1Gi") With Kueue, none are added: it admits only pods whose resources all have a quota in the queue.
*/}}
{{- define "mnist-job.resources" -}}
{{- $root := index . 0 }}
{{- $resources := index . 1 | deepCopy }}
{{- $requests := $resources.requests | default dict }}
{{- $limits := $resources.limits | default dict }}
{{- if ne $root.Values.scheduling.provider "kueue" }}
{{- $limit := get $limits "ephemeral-storage" | default $root.Values.tmpSizeLimit }}
{{- $least := index . 2 }}
{{- if lt (include "mnist-job.number" $limit | float64) (include "mnist-job.number" $least | float64) }}
{{- $least = $limit }}
{{- end }}
{{- $limits = merge $limits (dict "ephemeral-storage" $limit) }}
{{- $requests = merge $requests (dict "ephemeral-storage" $least) }}
{{- end }}
{{- toYaml (merge (dict "requests" $requests "limits" $limits) $resources) }}
{{- end }}

{{/* The number of a quantity ("500m", "10Gi", 2). */}}
{{- define "mnist-job.number" -}}
{{- $text := toString . }}
{{- $unit := regexFind "(m|k|[KMGTPE]i?)$" $text }}
{{- $units := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 }}
{{- range $power, $letter := list "Ki" "Mi" "Gi" "Ti" "Pi" "Ei" }}
{{- $size := 1.0 }}
{{- range until (add1 $power | int) }}{{ $size = mulf $size 1024.0 }}{{ end }}
{{- $_ := set $units $letter $size }}
{{- end }}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit) }}
{{- end }}

{{- define "mnist-job.gpuResource" -}}
{{ .gpuResource | default "nvidia.com/gpu" }}
{{- end }}

{{/*
The template of a Ray pod. (list . "worker" $group): `group` contains its resources and its rules for nodes.
The label app.kubernetes.io/name is not set: KubeRay sets it, and the head's Service selects pods by it.
*/}}
{{- define "mnist-job.rayPod" -}}
{{- $root := index . 0 }}
{{- $component := index . 1 }}
{{- $group := index . 2 }}
{{- $claim := include "mnist-job.claimName" $root }}
{{- $resources := include "mnist-job.resources" (list $root $group.resources "1Gi") | fromYaml }}
{{- if $group.gpus }}
{{- $_ := set $resources.limits (include "mnist-job.gpuResource" $group) $group.gpus }}
{{- end -}}
metadata:
  {{- include "mnist-job.podMetadata" (list $root $component) | nindent 2 }}
spec:
  {{- include "mnist-job.podDefaults" $root | nindent 2 }}
  automountServiceAccountToken: {{ and (eq $component "head") (eq (include "mnist-job.asksApiServer" $root) "true") }}
  # KubeRay starts Ray from a shell, which does not forward SIGTERM. So a longer time would not help.
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
      # Faster than KubeRay's probe (after 10 s, then every 5 s), because the job starts when all pods are ready.
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
        {{- $named := list }}
        {{- range $root.Values.env }}{{ $named = append $named .name }}{{ end }}
        {{- if and $root.Values.storage.credentialsSecret (not (has "AWS_EC2_METADATA_DISABLED" $named)) }}
        # Each connection to S3 would ask the instance's metadata for 4 s, which the NetworkPolicies do not allow.
        - {name: AWS_EC2_METADATA_DISABLED, value: "true"}
        {{- end }}
        {{- with include "mnist-job.env" $root | fromYamlArray }}
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
    {{- if and (eq $component "head") (include "mnist-job.autoscaling" $root) }}
    # KubeRay mounts this volume at /tmp/ray for the autoscaler's log. Without it, KubeRay adds one without a limit.
    - name: ray-logs
      emptyDir:
        sizeLimit: {{ $root.Values.tmpSizeLimit }}
    {{- end }}
    {{- if eq $component "head" }}
    - name: settings
      configMap:
        name: {{ include "mnist-job.clusterName" $root }}
        {{- with $root.Values.code }}
        items:
          - {key: settings.yaml, path: settings.yaml}
          {{- range $name, $_ := . }}
          - {key: {{ replace "/" "__" $name }}, path: code/{{ $name }}}
          {{- end }}
        {{- end }}
    {{- end }}
    {{- if $claim }}
    - name: storage
      persistentVolumeClaim:
        claimName: {{ $claim }}
    {{- end }}
{{- end }}

{{/* A group's affinity. If the volume can be mounted on only one node, add a rule that all Ray pods share a node. */}}
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
