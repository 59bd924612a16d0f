{{/* The Ray cluster: in mode `job` a part of the RayJob, in mode `cluster` a RayCluster. */}}

{{- define "mnist-job.rayClusterSpec" -}}
rayVersion: {{ .Values.image.rayVersion }}
# Without a name, KubeRay creates a Secret that the RayCluster owns. KubeRay still needs the token to stop the job when
# a RayJob is deleted, and waits for it without a timeout. A Secret of this chart would be deleted before that.
authOptions:
  mode: token
  {{- with .Values.auth.existingSecret }}
  secretName: {{ . }}
  {{- end }}
{{- if include "mnist-job.autoscaling" . }}
enableInTreeAutoscaling: true
# KubeRay adds a container with these options to the head. It also creates a Role for the pods' ServiceAccount: to read,
# patch and resize this namespace's pods, and to read and patch its RayClusters.
autoscalerOptions:
  version: v2
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  securityContext:
    {{- include "mnist-job.containerSecurityContext" . | nindent 4 }}
  resources:
    {{- include "mnist-job.resources" (list . .Values.autoscaler.resources "64Mi") | nindent 4 }}
  env:
    - {name: HOME, value: /tmp}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
{{- end }}
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: "0"
  template:
    {{- include "mnist-job.rayPod" (list . "head" .Values.head) | nindent 4 }}
workerGroupSpecs:
  {{- include "mnist-job.admittedWorkerGroups" . | default (include "mnist-job.workerGroups" . | trim) | nindent 2 }}
{{- end }}

{{- define "mnist-job.workerGroups" -}}
{{- $scaled := include "mnist-job.scaledGroups" . | fromYaml }}
{{- range $name, $group := .Values.workerGroups }}
{{- $processes := include "mnist-job.processes" $group | int }}
{{- $least := include "mnist-job.minReplicas" $group | int }}
{{- $most := include "mnist-job.maxReplicas" $group | int }}
- groupName: {{ $name }}
  replicas: {{ dig $name "replicas" $least $scaled | int | max $least | min $most }}
  minReplicas: {{ $least }}
  maxReplicas: {{ $most }}
  # KubeRay adds this field. Without it here, an upgrade with the same values would change the object.
  scaleStrategy: {{ dig $name "scaleStrategy" dict $scaled | toJson }}
  rayStartParams:
    # The CPUs that Ray can assign, independent of the pod's request, so that each process gets its CPUs.
    num-cpus: {{ mul $processes (ceil $.Values.settings.cpus_per_worker) | quote }}
    {{- if $group.gpus }}
    num-gpus: {{ $group.gpus | quote }}
    {{- end }}
  template:
    {{- include "mnist-job.rayPod" (list $ "worker" $group) | nindent 4 }}
{{- end }}
{{- end }}

{{/*
The worker groups that Kueue has admitted, as they are in the cluster. Kueue writes labels and the nodes of its flavor
into them, and an upgrade with Helm 4 fails if it would overwrite these. KubeRay ignores changes to a RayJob's pods.
*/}}
{{- define "mnist-job.admittedWorkerGroups" -}}
{{- if eq .Values.scheduling.provider "kueue" }}
{{- $live := include "mnist-job.live" . | fromYaml }}
{{- if and $live (not (dig "spec" "suspend" false $live)) }}
{{- get (get $live.spec "rayClusterSpec" | default $live.spec) "workerGroupSpecs" | toYaml }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The replicas that the autoscaler has set in the groups of a permanent cluster, by their names, so that an upgrade keeps
them. (The RayCluster of a RayJob is another object, which an upgrade does not change.)
*/}}
{{- define "mnist-job.scaledGroups" -}}
{{- if and (eq .Values.mode "cluster") (include "mnist-job.autoscaling" .) }}
{{- range dig "spec" "workerGroupSpecs" list (include "mnist-job.live" . | fromYaml) }}
{{ .groupName }}: {{ pick . "replicas" "scaleStrategy" | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{/* The RayJob or RayCluster as it is in the cluster; empty before its first installation, and without a cluster. */}}
{{- define "mnist-job.live" -}}
{{- $kind := eq .Values.mode "job" | ternary "RayJob" "RayCluster" }}
{{- with lookup "ray.io/v1" $kind .Release.Namespace (include "mnist-job.clusterName" .) }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Labels by which a scheduler recognizes the RayJob or RayCluster. KubeRay copies them to the pods. */}}
{{- define "mnist-job.schedulingLabels" -}}
{{- with .Values.scheduling }}
{{- if eq .provider "kueue" }}
kueue.x-k8s.io/queue-name: {{ .queue }}
{{- with .priorityClass }}
kueue.x-k8s.io/priority-class: {{ . }}
{{- end }}
{{- else if eq .provider "volcano" }}
{{- with .queue }}
volcano.sh/queue-name: {{ . }}
{{- end }}
{{- with .priorityClass }}
ray.io/priority-class-name: {{ . }}
{{- end }}
{{- else if eq .provider "yunikorn" }}
ray.io/gang-scheduling-enabled: "true"
yunikorn.apache.org/app-id: {{ include "mnist-job.clusterName" $ }}
yunikorn.apache.org/queue: {{ .queue }}
{{- end }}
{{- end }}
{{- end }}
