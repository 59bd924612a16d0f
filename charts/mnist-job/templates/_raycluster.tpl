{{/* The Ray cluster: of a RayJob in mode `job`, on its own in mode `cluster`. */}}

{{- define "mnist-job.rayClusterSpec" -}}
# The version in the image; KubeRay chooses its probes by it.
rayVersion: 2.60.0
# Without a name, KubeRay makes a Secret, named and owned by the RayCluster. It must outlive a RayJob that is deleted,
# which one of this chart would not: KubeRay needs the token to stop the job, and waits for it for ever.
authOptions:
  mode: token
  {{- with .Values.auth.existingSecret }}
  secretName: {{ . }}
  {{- end }}
{{- if include "mnist-job.autoscaling" . }}
enableInTreeAutoscaling: true
# KubeRay adds a container of these to the head, and gives the pods' ServiceAccount what it needs: a Role of its own, to
# read, patch and resize this namespace's pods, and to read and patch its RayClusters.
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
  # KubeRay adds this; were it not here, an upgrade with the same values would change the object.
  scaleStrategy: {{ dig $name "scaleStrategy" dict $scaled | toJson }}
  rayStartParams:
    # What Ray hands out, whatever the pod requests: a process gets its CPUs or the job says that it does not fit.
    num-cpus: {{ mul $processes (ceil $.Values.settings.cpus_per_worker) | quote }}
    {{- if $group.gpus }}
    num-gpus: {{ $group.gpus | quote }}
    {{- end }}
  template:
    {{- include "mnist-job.rayPod" (list $ "worker" $group) | nindent 4 }}
{{- end }}
{{- end }}

{{/*
The worker groups of what Kueue has admitted, as they are in the cluster: Kueue has written labels and its flavor's nodes
into them, and Helm 4 gives up an upgrade that would undo it. Nothing is lost: KubeRay ignores changes to a RayJob's pods.
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
What the autoscaler has made of a standing cluster's groups, by their names: an upgrade leaves their pods alone. (A
RayJob's RayCluster is an object of its own, which no upgrade touches.)
*/}}
{{- define "mnist-job.scaledGroups" -}}
{{- if and (eq .Values.mode "cluster") (include "mnist-job.autoscaling" .) }}
{{- range dig "spec" "workerGroupSpecs" list (include "mnist-job.live" . | fromYaml) }}
{{ .groupName }}: {{ pick . "replicas" "scaleStrategy" | toJson }}
{{- end }}
{{- end }}
{{- end }}

{{/* The RayJob or RayCluster as it is in the cluster; nothing before its first installation, and without a cluster. */}}
{{- define "mnist-job.live" -}}
{{- $kind := eq .Values.mode "job" | ternary "RayJob" "RayCluster" }}
{{- with lookup "ray.io/v1" $kind .Release.Namespace (include "mnist-job.clusterName" .) }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{/* Labels by which a scheduler recognizes the RayJob or RayCluster. KubeRay hands them on to the pods. */}}
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
