--- After a refusal: overwrite what is there, insert what is not, delete what came and went.
-- table p: id int key, v int
-- settings: careful
-- insert p (1, 10), (2, 20)
-- delete p (2, 20)
-- update p (3, 0) -> (3, 1)
-- update p (4, 0) -> (5, 0)

UPDATE (VALUES ROW(1,10)) AS n(c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`id`=n.c0,t.`v`=n.c1;
INSERT INTO `p` (`id`,`v`) SELECT n.c0,n.c1 FROM (VALUES ROW(1,10)) AS n(c0,c1) LEFT JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 WHERE t.`id`<=>NULL;
DELETE /*+ INDEX(`p` `PRIMARY`) */ FROM `p` WHERE `id` IN (2);
UPDATE (VALUES ROW(3,1)) AS n(c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`id`=n.c0,t.`v`=n.c1;
INSERT INTO `p` (`id`,`v`) SELECT n.c0,n.c1 FROM (VALUES ROW(3,1)) AS n(c0,c1) LEFT JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 WHERE t.`id`<=>NULL;
UPDATE (VALUES ROW(4,5,0)) AS n(o0,c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.o0 SET t.`id`=n.c0,t.`v`=n.c1;
UPDATE (VALUES ROW(5,0)) AS n(c0,c1) STRAIGHT_JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 SET t.`id`=n.c0,t.`v`=n.c1;
INSERT INTO `p` (`id`,`v`) SELECT n.c0,n.c1 FROM (VALUES ROW(5,0)) AS n(c0,c1) LEFT JOIN `p` AS t FORCE INDEX (`PRIMARY`) ON t.`id`=n.c0 WHERE t.`id`<=>NULL;
