"""The methods of `compare.py`: functions that build a model, and what some of them need besides."""

import keras

import keras_bikd as bikd
from compare_extras import PeakMemory, RetrainLastLayer, class_balanced
from compare_protocol import BALANCED, EXPERTS, WITH_META
from keras_bikd import objectives
from keras_bikd.comparison import Method

META_LEARNING_RATE = 1e-3


def compiled(model, parts, **arguments):
    """A model that runs as many steps at a time as divide an epoch; one on PyTorch, where Keras takes no more."""
    steps = len(parts.train) // 10
    together = 1 if keras.backend.backend() == "torch" else max(d for d in (1, 2, 5, 10, 20, 25, 50) if steps % d == 0)
    model.compile(parts.optimizer, steps_per_execution=together, **arguments)
    return model


def fixed(objective, *, fit=None, **fields):
    """A student trained on an objective, a function of `Parts`; `fit` adds arguments of `fit`."""

    def build(parts):
        return compiled(bikd.DistillationModel(parts.student, parts.teacher, objective(parts)), parts)

    def watched(parts):
        more = {} if fit is None else fit(parts)
        return {**more, "callbacks": [PeakMemory(), *more.get("callbacks", ())]}

    return Method(build, watched, **{"meta_in_train": False, **fields})


def bikd_model(
    *, meta_learning_rate=META_LEARNING_RATE, losses=None, prior=False, compile_arguments=(), fit=None, **arguments
):
    """BiKD with the given arguments of `BiKDModel` and of `Method`; `losses` is a function of `Parts`."""
    fields = {name: arguments.pop(name) for name in ("meta_in_train", "teacher", "budget") if name in arguments}
    compile_arguments = dict(compile_arguments)

    def build(parts):
        weight_net = bikd.MetaWeightNet(class_counts=parts.class_counts) if prior else None
        candidates = None if losses is None else losses(parts)
        model = bikd.BiKDModel(parts.student, parts.teacher, weight_net, candidate_losses=candidates, **arguments)
        meta_optimizer = keras.optimizers.Adam(meta_learning_rate)
        return compiled(model, parts, meta_optimizer=meta_optimizer, **compile_arguments)

    def watched(parts):
        more = {} if fit is None else fit(parts)
        callbacks = [PeakMemory(), bikd.callbacks.HypergradientMonitor(), *more.get("callbacks", ())]
        return {**more, "callbacks": callbacks}

    return Method(build, watched, **{"meta_in_train": False, **fields})


def cross_entropy(parts):
    return objectives.CrossEntropy()


def balanced_softmax(parts):
    return objectives.BalancedSoftmax(class_counts=parts.class_counts)


def kd(parts):
    return objectives.KnowledgeDistillation()


def corrected_teacher(parts):
    return objectives.SoftTargets(class_counts=parts.teacher_counts)


def dive(parts):
    return objectives.DistillingVirtualExamples(class_counts=parts.class_counts, temperature=4.0)


def cckd(parts):
    prior = objectives.teacher_prior_of(parts.teacher, parts.clean_meta)
    return objectives.ClassConditionalDistillation(class_counts=parts.class_counts, teacher_prior=prior)


def weighted(parts_of_sum, weights):
    """A sum of objectives under constant weights."""

    def objective(parts):
        return objectives.WeightedSum(objectives=tuple(own(parts) for own in parts_of_sum), weights=weights)

    return objective


def mix(hard, soft):
    """The two losses of `BiKDModel(class_counts=...)` under constant weights."""
    return weighted((balanced_softmax, corrected_teacher), (hard, soft))


def trusted(objective):
    """An objective with each sample weighted by the teacher's probability of its label."""

    def weighted_by_teacher(parts):
        return objectives.TeacherTrust(objective=objective(parts))

    return weighted_by_teacher


def candidates(hard, soft):
    """Candidate losses of BiKD."""

    def losses(parts):
        return {"hard": hard(parts), "soft": soft(parts)}

    return losses


def rw_kd(parts):
    return compiled(bikd.RWKDModel(parts.student, parts.teacher), parts)


def lfme(parts):
    return objectives.ExpertsObjective(parts.class_counts)


def paced(parts):
    train = class_balanced(parts.train)
    return {"x": train, "callbacks": [bikd.callbacks.ExpertPacing(train, parts.clean_meta)]}


def outgrown(parts):
    return {"callbacks": [bikd.callbacks.OutgrowTeacher(parts.clean_meta)]}


def retrained(parts):
    return {"callbacks": [RetrainLastLayer(parts.clean_meta)]}


def on_meta(parts):
    return {"x": parts.meta}


# As `BiKDModel(class_counts=...)`, but the teacher may have been trained on other counts than the student.
PRESET = candidates(balanced_softmax, corrected_teacher)
TWIN = mix(0.5, 0.5)
LAST_LAYER = {"hypergradient_layers": 1}
META = {"meta_in_train": True, "teacher": WITH_META}
HALF_META = {"meta_in_train": 0.5, "teacher": WITH_META}
META_ONLY = {**META, "fit": on_meta}

METHODS = {
    "CE": fixed(cross_entropy),
    "balanced softmax": fixed(balanced_softmax),
    "KD": fixed(kd),
    "WSL": fixed(lambda parts: objectives.WeightedSoftLabels()),
    "RW-KD": Method(rw_kd, lambda parts: {"callbacks": [PeakMemory()]}, meta_in_train=False),
    "BKD": fixed(lambda parts: objectives.BalancedKnowledgeDistillation(class_counts=parts.class_counts)),
    "CCKD (training_prior)": fixed(cckd),
    "DiVE": fixed(dive),
    "DiVE (balanced teacher)": fixed(dive, teacher=BALANCED),
    "LFME": fixed(lfme, teacher=EXPERTS, fit=paced),
    "BiKD": bikd_model(),
    "BiKD, k=1, rate/5": bikd_model(inner_steps=1, meta_learning_rate=META_LEARNING_RATE / 5),
    "BiKD, last layer": bikd_model(compile_arguments=LAST_LAYER),
    "BiKD + log prior": bikd_model(prior=True),
    "KD, corrected teacher": fixed(weighted((cross_entropy, corrected_teacher), (0.5, 0.5))),
    "BiKD, corrected teacher": bikd_model(losses=candidates(cross_entropy, corrected_teacher)),
    "balanced softmax + KD, corrected teacher": fixed(TWIN),
    "BiKD, class counts": bikd_model(losses=PRESET),
    "BiKD, class counts, last layer": bikd_model(losses=PRESET, compile_arguments=LAST_LAYER),
    "CE, meta images only": fixed(cross_entropy, **META_ONLY),
    "KD, meta images only": fixed(kd, **META_ONLY),
    "balanced softmax, last layer retrained on meta": fixed(balanced_softmax, fit=retrained),
    "CE +meta": fixed(cross_entropy, **META),
    "KD +meta": fixed(kd, **META),
    "balanced softmax +meta": fixed(balanced_softmax, **META),
    "balanced softmax + KD, corrected teacher +meta": fixed(TWIN, **META),
    "balanced softmax + KD, corrected teacher +meta, half": fixed(TWIN, **HALF_META),
    "balanced softmax + KD, corrected teacher +meta, weighted by teacher": fixed(trusted(TWIN), **META),
    "BiKD +meta": bikd_model(**META),
    "BiKD, class counts +meta": bikd_model(losses=PRESET, **META),
    "BiKD, class counts +meta, half": bikd_model(losses=PRESET, **HALF_META),
}
