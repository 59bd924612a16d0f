{{/*
Rules that concern several values. Each message says which value is wrong, why, and what to do. All faults are reported
together. (The rules for single values are in values.schema.json.)
*/}}
{{- define "mnist-job.validate" -}}
{{- $faults := list }}
{{- range list "cluster" "workers" "resources" "code" "storage" "pods" "metrics" "scheduling" }}
{{- $faults = concat $faults (include (printf "mnist-job.faults.%s" .) $ | fromYamlArray) }}
{{- end }}
{{- if $faults }}
{{- fail (printf "\n\n- %s\n" (join "\n- " $faults)) }}
{{- end }}
{{- end }}

{{/* The APIs of the cluster. */}}
{{- define "mnist-job.apiVersions" -}}
{{ toJson .Capabilities.APIVersions }}
{{- end }}

{{/*
Faults of the cluster: missing APIs. Every API server has apiregistration.k8s.io. If it is missing, there is no API
server: `helm template` or `helm lint` renders the chart.
*/}}
{{- define "mnist-job.faults.cluster" -}}
{{- $apis := include "mnist-job.apiVersions" . | fromJsonArray }}
{{- if has "apiregistration.k8s.io/v1" $apis }}
{{- if not (has "ray.io/v1/RayJob" $apis) }}
- >-
  the cluster has no KubeRay, which runs this chart's RayJob; install it first: helm install kuberay-operator
  kuberay-operator --repo https://ray-project.github.io/kuberay-helm --namespace kuberay-system --create-namespace
{{- end }}
{{- $kueue := or (has "kueue.x-k8s.io/v1beta2" $apis) (has "kueue.x-k8s.io/v1beta1" $apis) }}
{{- if and (eq .Values.scheduling.provider "kueue") (not $kueue) }}
- >-
  scheduling.provider: the cluster has no Kueue, so the job would not wait for quota; install it
  (https://kueue.sigs.k8s.io), or set scheduling.provider=none
{{- end }}
{{- if and (eq .Values.scheduling.provider "volcano") (not (has "scheduling.volcano.sh/v1beta1" $apis)) }}
- >-
  scheduling.provider: the cluster has no Volcano, so no pod would be scheduled; install it (https://volcano.sh), or set
  scheduling.provider=none
{{- end }}
{{- $monitoring := or .Values.metrics.podMonitor.enabled .Values.metrics.prometheusRule.enabled }}
{{- if and $monitoring (not (has "monitoring.coreos.com/v1" $apis)) }}
- >-
  metrics.podMonitor, metrics.prometheusRule: the cluster has no Prometheus Operator, which they need; install it, or
  disable them
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.workers" -}}
{{- $with := list }}
{{- $without := list }}
{{- range $name, $group := .Values.workerGroups }}
{{- if $group.gpus }}{{ $with = append $with $name }}{{ else }}{{ $without = append $without $name }}{{ end }}
{{- $resource := include "mnist-job.gpuResource" $group }}
{{- if not (hasPrefix "nvidia.com/" $resource) }}
- >-
  workerGroups.{{ $name }}.gpuResource: {{ $resource }} is not NVIDIA's, and TensorFlow in the image can use only
  NVIDIA's GPUs; set nvidia.com/gpu or a MIG slice (nvidia.com/mig-1g.5gb), or train on CPUs
{{- else if and (contains "/mig-" $resource) (gt (int $group.gpus) 1) }}
- >-
  workerGroups.{{ $name }}.gpus: a pod can use only one MIG slice, because CUDA shows only one to a process, but gpus is
  {{ $group.gpus }}; set workerGroups.{{ $name }}.gpus=1, and more replicas
{{- else if and (ne $resource "nvidia.com/gpu") (not $group.gpus) }}
- >-
  workerGroups.{{ $name }}.gpuResource: {{ $resource }} has no effect without GPUs; set workerGroups.{{ $name }}.gpus
{{- end }}
{{- if gt (include "mnist-job.minReplicas" $group | int) (include "mnist-job.maxReplicas" $group | int) }}
- >-
  workerGroups.{{ $name }}: minReplicas ({{ include "mnist-job.minReplicas" $group }}) is greater than maxReplicas
  ({{ include "mnist-job.maxReplicas" $group }}); change one of them (null means replicas)
{{- end }}
{{- end }}
{{- if and $with $without }}
- >-
  workerGroups: some groups have GPUs ({{ join ", " $with }}), others have none ({{ join ", " $without }}); give GPUs to
  all groups, or to none (workerGroups.NAME=null removes a group)
{{- end }}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if and $with (not .Values.image.digest) (not (hasSuffix "-gpu" $tag)) }}
- >-
  image.tag: workerGroups.{{ first $with }} has GPUs, but {{ $tag }} names an image without CUDA; set
  image.tag={{ $tag }}-gpu, or image.digest
{{- end }}
{{- if and .Values.settings.evaluate_on_gpu (not $with) }}
- >-
  settings.evaluate_on_gpu: no group of workerGroups has GPUs; set gpus of a group, or evaluate on the CPU
{{- end }}
{{- $workers := get (include "mnist-job.settings" . | fromYaml) "workers" | toString | splitList ":" | last }}
{{- if lt (int .Values.settings.batch_size) (int $workers) }}
- >-
  settings.batch_size: {{ .Values.settings.batch_size }} is less than one image for each of the {{ $workers }} training
  processes of workerGroups; raise it, or use fewer processes
{{- end }}
{{- end }}

{{/* Resources that a pod would not use or could not get, for each kind of pod that has resources in the values. */}}
{{- define "mnist-job.faults.resources" -}}
{{- $root := . }}
{{- $asked := dict
  "head" .Values.head.resources
  "submitter" .Values.submitter.resources
  "autoscaler" .Values.autoscaler.resources
  "test" .Values.test.resources
  "metrics.pushgateway.deploy" .Values.metrics.pushgateway.deploy.resources
}}
{{- range $name, $group := .Values.workerGroups }}
{{- $_ := set $asked (printf "workerGroups.%s" $name) $group.resources }}
{{- end }}
{{- range $who, $resources := $asked }}
{{- range $list, $amounts := $resources }}
{{- range $resource, $_ := $amounts }}
{{- if and (contains "/" $resource) (regexMatch "gpu|/mig-|cuda|tpu|npu|hpu|xpu|dcu|gcu|mlu|neuron|gaudi|ascend|fpga|qaic|^amd.com/|^habana.ai/" (lower $resource)) }}
- >-
  {{ $who }}.resources.{{ $list }}: {{ $resource }}
  {{- if not (hasPrefix "workerGroups." $who) }} would be reserved but not used, because only workers use GPUs; remove it
  {{- else if hasPrefix "nvidia.com/" $resource }} would be reserved, but the training would use the CPU; set {{ $who }}.gpus
  {{- if ne $resource "nvidia.com/gpu" }} and {{ $who }}.gpuResource{{ end }} instead
  {{- else }} would be reserved but not used, because TensorFlow in the image can use only NVIDIA's GPUs; remove it
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $resource, $limit := $resources.limits }}
{{- $request := dig "requests" $resource "" $resources }}
{{- if and $request (gt (include "mnist-job.number" $request | float64) (include "mnist-job.number" $limit | float64)) }}
- >-
  {{ $who }}.resources: the request of {{ $resource }} ({{ $request }}) is greater than its limit ({{ $limit }}), which
  Kubernetes refuses; raise the limit, or lower the request
{{- end }}
{{- end }}
{{- $disk := dig "requests" "ephemeral-storage" "0" $resources }}
{{- $most := dig "limits" "ephemeral-storage" $root.Values.tmpSizeLimit $resources }}
{{- if and (not (dig "limits" "ephemeral-storage" "" $resources)) (gt (include "mnist-job.number" $disk | float64) (include "mnist-job.number" $most | float64)) }}
- >-
  {{ $who }}.resources.requests: ephemeral-storage ({{ $disk }}) is greater than tmpSizeLimit ({{ $most }}); raise
  tmpSizeLimit, or lower the request
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.code" -}}
{{- if gt (len (toJson .Values.code)) 900000 }}
- >-
  code: the files are larger than 900 kB, which a ConfigMap cannot hold; build an image with them:
  FROM the job's image, COPY your modules to /opt/code, and ENV PYTHONPATH=/opt/code
{{- end }}
{{- range $setting := list "model" "data" "callbacks" }}
{{- $function := get $.Values.settings $setting | default "" }}
{{- if and (regexMatch "^[^/]+[.]py:" $function) (not (hasKey $.Values.code (regexFind "^[^:]+" $function))) }}
- >-
  settings.{{ $setting }}: {{ $function }} is not in code; add it with --set-file code.{{ regexFind "^[^:]+" $function | replace "." "\\." }}=FILE
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.storage" -}}
{{- $data := .Values.settings.data }}
{{- $isFunction := regexMatch "^[A-Za-z0-9_./~-]+:[A-Za-z_][A-Za-z0-9_]*$" $data }}
{{- if not (or (has $data (include "mnist-job.dataSets" . | fromJsonArray)) (hasPrefix "/" $data) (contains "://" $data) $isFunction) }}
- >-
  settings.data: {{ $data }} is a relative path, and the pods share no current folder; use
  {{ include "mnist-job.dataSets" . | fromJsonArray | join ", " }}, an absolute
  path (/storage/... on the volume), a URI or a function (FILE.py:FUNCTION)
{{- end }}
{{- if regexMatch "^[^/]*://[^/]*@" $data }}
- >-
  settings.data: it contains a password, which would be readable in the ConfigMap; put it into the Secret that
  storage.credentialsSecret names
{{- end }}
{{- with .Values.storage }}
{{- if and .uri .persistentVolumeClaim.existingClaim }}
- >-
  storage: uri and persistentVolumeClaim.existingClaim are both set, but results go to only one place; unset one of them
{{- end }}
{{- if not (or .uri .persistentVolumeClaim.existingClaim .persistentVolumeClaim.create) }}
- >-
  storage: head and workers share no place for checkpoints and results; set persistentVolumeClaim.create,
  persistentVolumeClaim.existingClaim or uri
{{- end }}
{{- if and .credentialsSecret (not .uri) (not (contains "://" $data)) (eq $.Values.mode "job") }}
- >-
  storage.credentialsSecret: neither storage.uri nor settings.data is a URI, so nothing would use the credentials; unset
  it
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.pods" -}}
{{- range .Values.env }}
{{- if hasPrefix "MNIST_JOB_" .name }}
- >-
  env: {{ .name }} would change a setting, but would not start a new run; set
  settings.{{ trimPrefix "MNIST_JOB_" .name | lower }} instead
{{- end }}
{{- end }}
{{- range $place := list "labels" "podLabels" }}
{{- range $key := list "name" "instance" "component" "created-by" }}
{{- if hasKey (get $.Values $place) (printf "app.kubernetes.io/%s" $key) }}
- >-
  {{ $place }}: Services and NetworkPolicies select pods by app.kubernetes.io/{{ $key }}; choose another key
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.limits }}
{{- if ge (int .preRunningDeadlineSeconds) (int .activeDeadlineSeconds) }}
- >-
  limits.preRunningDeadlineSeconds: {{ .preRunningDeadlineSeconds }} would never be reached, because
  activeDeadlineSeconds ({{ .activeDeadlineSeconds }}) counts from the same moment; lower it
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.metrics" -}}
{{- with .Values.metrics }}
{{- $port := int .port }}
{{- if or (has $port (list 6379 8080 8265 44217 44227 52365)) (and (ge $port 10001) (le $port 19999)) }}
- >-
  metrics.port: Ray itself uses port {{ $port }}; choose another port, such as 8000
{{- end }}
{{- $unit := dict "s" 1 "m" 60 "h" 3600 }}
{{- $least := mul 2 (regexFind "^[0-9]+" .podMonitor.interval) (get $unit (regexFind "[smh]$" .podMonitor.interval)) }}
{{- $ttl := int $.Values.limits.ttlSecondsAfterFinished }}
{{- if and .podMonitor.enabled (eq $.Values.mode "job") (lt $ttl (int $least)) }}
- >-
  limits.ttlSecondsAfterFinished: {{ $ttl }} s is less than the time of two scrapes (metrics.podMonitor.interval:
  {{ .podMonitor.interval }}), so Prometheus could miss the outcome; raise it to {{ $least }} or more
{{- end }}
{{- if and .pushgateway.url .pushgateway.deploy.enabled }}
- >-
  metrics.pushgateway: url and deploy.enabled are both set, but the outcome is pushed to only one place; unset one of
  them
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.scheduling" -}}
{{- with .Values.scheduling }}
{{- if and .queue (eq .provider "none") }}
- >-
  scheduling.queue: {{ .queue }} has no effect without scheduling.provider; set it to kueue, volcano or yunikorn
{{- end }}
{{- if and (not .queue) (has .provider (list "kueue" "yunikorn")) }}
- >-
  scheduling.queue: {{ .provider }} needs the name of a queue
{{- end }}
{{- if and (eq .provider "kueue") (include "mnist-job.autoscaling" $) }}
- >-
  workerGroups: Kueue admits all pods of a job at once, so it admits no job with Ray's autoscaler; set minReplicas and
  maxReplicas to the same number, or unset both
{{- end }}
{{- if eq .provider "kueue" }}
{{- /* Kueue admits at most 8 sets of pods together. The head is one of them, and a job's submitter is another. */}}
{{- $most := eq $.Values.mode "job" | ternary 6 7 }}
{{- if gt (len $.Values.workerGroups) $most }}
- >-
  workerGroups: Kueue admits at most {{ $most }} groups at once, but there are {{ len $.Values.workerGroups }}; merge some
{{- end }}
{{- range list "head" "submitter" }}
{{- if hasKey $.Values.workerGroups . }}
- >-
  workerGroups.{{ . }}: Kueue uses this name for other pods of the job; choose another name
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq .provider "yunikorn") (include "mnist-job.oneNode" $) }}
- >-
  scheduling.provider: YuniKorn reserves resources with placeholder pods, which do not have this release's labels, so
  nothing puts them all on the one node that can mount a ReadWriteOnce volume; use storage.uri, or a claim whose
  accessModes contain ReadWriteMany
{{- end }}
{{- end }}
{{- end }}
