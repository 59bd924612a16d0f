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
headGroupSpec:
  rayStartParams:
    dashboard-host: 0.0.0.0
    num-cpus: "0"
  template:
    {{- include "mnist-job.rayPod" (list . "head" .Values.head) | nindent 4 }}
workerGroupSpecs:
  {{- range $name, $group := .Values.workerGroups }}
  {{- $processes := include "mnist-job.processes" $group | int }}
  - groupName: {{ $name }}
    replicas: {{ $group.replicas }}
    minReplicas: {{ $group.replicas }}
    maxReplicas: {{ $group.replicas }}
    # KubeRay adds this; were it not here, an upgrade with the same values would change the object.
    scaleStrategy: {}
    rayStartParams:
      # What Ray hands out, whatever the pod requests: a process gets its CPUs or the job says that it does not fit.
      num-cpus: {{ mul $processes (ceil $.Values.settings.cpus_per_worker) | quote }}
      {{- if $group.gpus }}
      num-gpus: {{ $group.gpus | quote }}
      {{- end }}
    template:
      {{- include "mnist-job.rayPod" (list $ "worker" $group) | nindent 6 }}
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
