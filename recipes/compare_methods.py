"""The methods of `compare.py`, each a record of what is trained and how."""

import keras

import keras_bikd as bikd
from keras_bikd import objectives
from keras_bikd.comparison import Call, Method, Part, retrain_last_layer

STUDENT, TEACHER, META = Part("student"), Part("teacher"), Part("meta")
META_LEARNING_RATE = 1e-3
MONITOR = Call(bikd.callbacks.HypergradientMonitor)


def fixed(objective, **method):
    """A student trained on an objective, without a meta set."""
    return Method(model=Call(bikd.DistillationModel, STUDENT, TEACHER, objective), **method)


def bikd_model(*, meta_learning_rate=META_LEARNING_RATE, compile_arguments=(), method=(), **arguments):
    """BiKD with the given arguments of `BiKDModel`; `method` holds those of `Method`."""
    meta_optimizer = Call(keras.optimizers.Adam, meta_learning_rate)
    defaults = {"meta_data": META, "callbacks": (MONITOR,)}
    return Method(
        model=Call(bikd.BiKDModel, STUDENT, TEACHER, **arguments),
        compile_arguments={"meta_optimizer": meta_optimizer, **dict(compile_arguments)},
        **defaults | dict(method),
    )


def mix(hard, soft):
    """The two losses of `BiKDModel(class_counts=...)` under constant weights."""
    return Call(objectives.WeightedSum, objectives=(BALANCED_SOFTMAX, CORRECTED_TEACHER), weights=(hard, soft))


def trusted(objective):
    """An objective with each sample weighted by the teacher's probability of its label."""
    return Call(objectives.TeacherTrust, objective=objective)


COUNTS = {"class_counts": Part("counts")}
CROSS_ENTROPY = objectives.CrossEntropy()
BALANCED_SOFTMAX = Call(objectives.BalancedSoftmax, **COUNTS)
KD = objectives.KnowledgeDistillation()
CORRECTED_TEACHER = Call(objectives.SoftTargets, class_counts=Part("teacher_counts"))
CORRECTED_KD = Call(objectives.WeightedSum, objectives=(CROSS_ENTROPY, CORRECTED_TEACHER), weights=(0.5, 0.5))
DIVE = Call(objectives.DistillingVirtualExamples, **COUNTS, temperature=4.0)
TEACHER_PRIOR = Call(objectives.teacher_prior_of, TEACHER, Part("clean_meta"))
CCKD = Call(objectives.ClassConditionalDistillation, **COUNTS, teacher_prior=TEACHER_PRIOR)
TWIN = mix(0.5, 0.5)

# As `BiKDModel(class_counts=...)`, but the teacher may have been trained on other counts than the student.
PRESET = {"hard": BALANCED_SOFTMAX, "soft": CORRECTED_TEACHER}
LOG_PRIOR = Call(bikd.MetaWeightNet, **COUNTS)
LAST_LAYER = {"hypergradient_layers": 1}
RETRAIN = Call(retrain_last_layer, STUDENT, Part("clean_meta"))
WITH_META, HALF_META = {"meta_in_train": True}, {"meta_in_train": 0.5}
OUTGROWN = {"callbacks": (MONITOR, Call(bikd.callbacks.OutgrowTeacher, Part("clean_meta")))}
META_ONLY = {"train_on": META, "meta_in_train": True}

METHODS = {
    "CE": fixed(CROSS_ENTROPY),
    "balanced softmax": fixed(BALANCED_SOFTMAX),
    "KD": fixed(KD),
    "WSL": fixed(objectives.WeightedSoftLabels()),
    "RW-KD": Method(model=Call(bikd.RWKDModel, STUDENT, TEACHER), meta_data=META),
    "BKD": fixed(Call(objectives.BalancedKnowledgeDistillation, **COUNTS)),
    "CCKD (training_prior)": fixed(CCKD),
    "DiVE": fixed(DIVE),
    "DiVE (balanced teacher)": fixed(DIVE, teacher="balanced_softmax"),
    "LFME": Method(
        model=Call(bikd.DistillationModel, STUDENT, TEACHER, Call(objectives.ExpertsObjective, Part("counts"))),
        callbacks=(Call(bikd.callbacks.ExpertPacing, Part("train"), META),),
        teacher="experts",
        sampling="class_balanced",
    ),
    "BiKD": bikd_model(),
    "BiKD, k=1, rate/5": bikd_model(inner_steps=1, meta_learning_rate=META_LEARNING_RATE / 5),
    "BiKD, last layer": bikd_model(compile_arguments=LAST_LAYER),
    "BiKD + log prior": bikd_model(weight_net=LOG_PRIOR),
    "KD, corrected teacher": fixed(CORRECTED_KD),
    "BiKD, corrected teacher": bikd_model(candidate_losses={"hard": CROSS_ENTROPY, "soft": CORRECTED_TEACHER}),
    "balanced softmax + KD, corrected teacher": fixed(TWIN),
    "BiKD, class counts": bikd_model(candidate_losses=PRESET),
    "BiKD, class counts, last layer": bikd_model(candidate_losses=PRESET, compile_arguments=LAST_LAYER),
    "CE, meta images only": fixed(CROSS_ENTROPY, **META_ONLY),
    "KD, meta images only": fixed(KD, **META_ONLY),
    "balanced softmax, last layer retrained on meta": fixed(BALANCED_SOFTMAX, finish=RETRAIN),
    "CE +meta": fixed(CROSS_ENTROPY, **WITH_META),
    "KD +meta": fixed(KD, **WITH_META),
    "balanced softmax +meta": fixed(BALANCED_SOFTMAX, **WITH_META),
    "balanced softmax + KD, corrected teacher +meta": fixed(TWIN, **WITH_META),
    "balanced softmax + KD, corrected teacher +meta, half": fixed(TWIN, **HALF_META),
    "balanced softmax + KD, corrected teacher +meta, weighted by teacher": fixed(trusted(TWIN), **WITH_META),
    "BiKD +meta": bikd_model(method=WITH_META),
    "BiKD, class counts +meta": bikd_model(candidate_losses=PRESET, method=WITH_META),
    "BiKD, class counts +meta, half": bikd_model(candidate_losses=PRESET, method=HALF_META),
}
