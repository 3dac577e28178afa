--- The source logs no cascades: a deleted and reinserted parent has lost its children.
-- table p: id int key, v int
-- table c: id int key, p int null -> p.id cascade
-- settings: checks
-- delete p (5, 0)
-- insert p (5, 1)

DELETE /*+ INDEX(`p` `PRIMARY`) */ FROM `p` WHERE `id` IN (5);
INSERT INTO `p` (`id`,`v`) VALUES (5,1);
