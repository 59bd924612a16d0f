{{/*
Rules that concern several values. Each message says which value is wrong, why, and what to do. All faults are reported
together. (The rules for single values are in values.schema.json.)
*/}}
{{- define "mnist-job.validate" -}}
{{- $faults := list }}
{{- range list "cluster" "workers" "resources" "storage" "pods" "metrics" "scheduling" }}
{{- $faults = concat $faults (include (printf "mnist-job.faults.%s" .) $ | fromYamlArray) }}
{{- end }}
{{- if $faults }}
{{- fail (printf "\n\n- %s\n" (join "\n- " $faults)) }}
{{- end }}
{{- end }}

{{/* Faults of the cluster: missing APIs. */}}
{{- define "mnist-job.apiVersions" -}}
{{ toJson .Capabilities.APIVersions }}
{{- end }}

{{/* The missing APIs. Every API server has apiregistration.k8s.io; `helm template` and `helm lint` do not ask any. */}}
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
  scheduling.provider: the cluster has no Kueue, so that the job would run without waiting for quota; install it
  (https://kueue.sigs.k8s.io), or set none
{{- end }}
{{- if and (eq .Values.scheduling.provider "volcano") (not (has "scheduling.volcano.sh/v1beta1" $apis)) }}
- >-
  scheduling.provider: the cluster has no Volcano, so that no pod would be scheduled; install it
  (https://volcano.sh), or set none
{{- end }}
{{- $monitoring := or .Values.metrics.podMonitor.enabled .Values.metrics.prometheusRule.enabled }}
{{- if and $monitoring (not (has "monitoring.coreos.com/v1" $apis)) }}
- >-
  metrics.podMonitor, metrics.prometheusRule: the cluster has no Prometheus Operator, whose kinds these are; install it,
  or disable them
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
  workerGroups.{{ $name }}.gpuResource: {{ $resource }} is not NVIDIA's, and TensorFlow in the image computes on no other
  accelerators; set nvidia.com/gpu or a MIG slice (nvidia.com/mig-1g.5gb), or train on CPUs
{{- else if and (contains "/mig-" $resource) (gt (int $group.gpus) 1) }}
- >-
  workerGroups.{{ $name }}.gpus: CUDA shows a process one MIG slice of a pod, and these are {{ $group.gpus }}; set
  workerGroups.{{ $name }}.gpus=1, and more replicas
{{- else if and (ne $resource "nvidia.com/gpu") (not $group.gpus) }}
- >-
  workerGroups.{{ $name }}.gpuResource: {{ $resource }} means nothing without GPUs; set workerGroups.{{ $name }}.gpus
{{- end }}
{{- if gt (include "mnist-job.minReplicas" $group | int) (include "mnist-job.maxReplicas" $group | int) }}
- >-
  workerGroups.{{ $name }}: the fewest pods ({{ include "mnist-job.minReplicas" $group }}) are more than the most
  ({{ include "mnist-job.maxReplicas" $group }}); set minReplicas and maxReplicas, where null means replicas
{{- end }}
{{- end }}
{{- if and $with $without }}
- >-
  workerGroups: {{ join ", " $with }} with GPUs, {{ join ", " $without }} without; one run trains on either, so give all
  groups GPUs, or none (workerGroups.NAME=null removes a group)
{{- end }}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if and $with (not .Values.image.digest) (not (hasSuffix "-gpu" $tag)) }}
- >-
  image.tag: workerGroups.{{ first $with }} has GPUs, and {{ $tag }} names an image without CUDA; set
  image.tag={{ $tag }}-gpu, or image.digest
{{- end }}
{{- if and .Values.settings.evaluate_on_gpu (not $with) }}
- >-
  settings.evaluate_on_gpu: no group of workerGroups has GPUs; give one gpus, or leave the evaluation on the CPU
{{- end }}
{{- $workers := get (include "mnist-job.settings" . | fromYaml) "workers" | toString | splitList ":" | last }}
{{- if lt (int .Values.settings.batch_size) (int $workers) }}
- >-
  settings.batch_size: {{ .Values.settings.batch_size }} is less than one image for each of the {{ $workers }} training
  processes of workerGroups; raise it, or take fewer
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
  {{- if not (hasPrefix "workerGroups." $who) }} would be reserved and not used, as only workers compute on GPUs; leave it out
  {{- else if hasPrefix "nvidia.com/" $resource }} alone would train on the CPU; set {{ $who }}.gpus
  {{- if ne $resource "nvidia.com/gpu" }} and {{ $who }}.gpuResource{{ end }} in its place
  {{- else }} would be reserved and not used, as TensorFlow in the image computes on NVIDIA's GPUs alone; leave it out
  {{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $resource, $limit := $resources.limits }}
{{- $request := dig "requests" $resource "" $resources }}
{{- if and $request (gt (include "mnist-job.number" $request | float64) (include "mnist-job.number" $limit | float64)) }}
- >-
  {{ $who }}.resources: {{ $resource }} is requested ({{ $request }}) beyond its limit ({{ $limit }}), which Kubernetes
  refuses; raise the limit, or lower the request
{{- end }}
{{- end }}
{{- $disk := dig "requests" "ephemeral-storage" "0" $resources }}
{{- $most := dig "limits" "ephemeral-storage" $root.Values.tmpSizeLimit $resources }}
{{- if and (not (dig "limits" "ephemeral-storage" "" $resources)) (gt (include "mnist-job.number" $disk | float64) (include "mnist-job.number" $most | float64)) }}
- >-
  {{ $who }}.resources.requests: ephemeral-storage ({{ $disk }}) is more than tmpSizeLimit ({{ $most }}); raise that
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.storage" -}}
{{- $data := .Values.settings.data }}
{{- if not (or (has $data (list "mnist" "digits")) (hasPrefix "/" $data) (contains "://" $data)) }}
- >-
  settings.data: {{ $data }} is relative, to no folder that the pods share; use mnist, digits, a path (/storage/... on
  the volume) or a URI
{{- end }}
{{- if regexMatch "^[^/]*://[^/]*@" $data }}
- >-
  settings.data: holds a password, which everybody could read in the ConfigMap; put it into the Secret that
  storage.credentialsSecret names
{{- end }}
{{- with .Values.storage }}
{{- if and .uri .persistentVolumeClaim.existingClaim }}
- >-
  storage: uri and persistentVolumeClaim.existingClaim are both set, and results go to one place; empty one of them
{{- end }}
{{- if not (or .uri .persistentVolumeClaim.existingClaim .persistentVolumeClaim.create) }}
- >-
  storage: head and workers share no place for checkpoints and results; set persistentVolumeClaim.create,
  persistentVolumeClaim.existingClaim or uri
{{- end }}
{{- if and .credentialsSecret (not .uri) (not (contains "://" $data)) }}
- >-
  storage.credentialsSecret: neither storage.uri nor settings.data is a URI, so that nothing asks for credentials; empty
  it
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.pods" -}}
{{- range .Values.env }}
{{- if hasPrefix "MNIST_JOB_" .name }}
- >-
  env: {{ .name }} would change a run without starting it anew; set
  settings.{{ trimPrefix "MNIST_JOB_" .name | lower }} in its place
{{- end }}
{{- end }}
{{- range $place := list "labels" "podLabels" }}
{{- range $key := list "name" "instance" "component" "created-by" }}
{{- if hasKey (get $.Values $place) (printf "app.kubernetes.io/%s" $key) }}
- >-
  {{ $place }}: app.kubernetes.io/{{ $key }} is what Services and NetworkPolicies select pods by; choose another key
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.limits }}
{{- if ge (int .preRunningDeadlineSeconds) (int .activeDeadlineSeconds) }}
- >-
  limits.preRunningDeadlineSeconds: {{ .preRunningDeadlineSeconds }} would never be reached, as activeDeadlineSeconds
  ({{ .activeDeadlineSeconds }}) counts from the same moment; lower it
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.metrics" -}}
{{- with .Values.metrics }}
{{- $port := int .port }}
{{- if or (has $port (list 6379 8080 8265 44217 44227 52365)) (and (ge $port 10001) (le $port 19999)) }}
- >-
  metrics.port: Ray uses {{ $port }} itself; choose another, such as 8000
{{- end }}
{{- $unit := dict "s" 1 "m" 60 "h" 3600 }}
{{- $least := mul 2 (regexFind "^[0-9]+" .podMonitor.interval) (get $unit (regexFind "[smh]$" .podMonitor.interval)) }}
{{- $ttl := int $.Values.limits.ttlSecondsAfterFinished }}
{{- if and .podMonitor.enabled (eq $.Values.mode "job") (lt $ttl (int $least)) }}
- >-
  limits.ttlSecondsAfterFinished: {{ $ttl }} s are less than two scrapes (metrics.podMonitor.interval:
  {{ .podMonitor.interval }}), so that the outcome could be missed; raise it to {{ $least }} or more
{{- end }}
{{- if and .pushgateway.url .pushgateway.deploy.enabled }}
- >-
  metrics.pushgateway: url and deploy.enabled are both set, and the outcome is pushed to one place; choose
{{- end }}
{{- end }}
{{- end }}

{{- define "mnist-job.faults.scheduling" -}}
{{- with .Values.scheduling }}
{{- if and .queue (eq .provider "none") }}
- >-
  scheduling.queue: {{ .queue }} means nothing without scheduling.provider; set kueue, volcano or yunikorn
{{- end }}
{{- if and (not .queue) (has .provider (list "kueue" "yunikorn")) }}
- >-
  scheduling.queue: {{ .provider }} needs the name of one
{{- end }}
{{- if and (eq .provider "kueue") (include "mnist-job.autoscaling" $) }}
- >-
  workerGroups: Kueue admits all pods at once, and no job with Ray's autoscaler; set maxReplicas as minReplicas, or
  leave both out
{{- end }}
{{- if eq .provider "kueue" }}
{{- /* Kueue admits at most 8 sets of pods together. The head is one of them, and a job's submitter is another. */}}
{{- $most := eq $.Values.mode "job" | ternary 6 7 }}
{{- if gt (len $.Values.workerGroups) $most }}
- >-
  workerGroups: Kueue admits at most {{ $most }} groups at once, and these are {{ len $.Values.workerGroups }}; merge
  some
{{- end }}
{{- range list "head" "submitter" }}
{{- if hasKey $.Values.workerGroups . }}
- >-
  workerGroups.{{ . }}: Kueue has this name for pods of its own; choose another
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq .provider "yunikorn") (include "mnist-job.oneNode" $) }}
- >-
  scheduling.provider: YuniKorn reserves places by pods without this release's labels, which the affinity to the node of
  a ReadWriteOnce volume does not hold together; use storage.uri, or a claim whose accessModes have ReadWriteMany
{{- end }}
{{- end }}
{{- end }}
